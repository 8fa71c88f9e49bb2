"""What a config can name: it has settings, knows what can be wrong with them, and is made of them.

Objectives, samplers, twists and kinds of evidence are `Configured`, built in or a plugin's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from .site import Site
from .strict import Strict


class Configured:
    """The base class of what a table of a config names: evidence, samplers, objectives, twists.

    The table is parsed once, into `Settings`. `check` says what is wrong with them before anything
    is loaded, and `from_settings` makes the thing. A class that takes its settings as keywords
    needs to state `Settings` alone.

    Example:
        >>> class BrevitySettings(po.Strict):
        ...     nats_per_token: float
        >>> class Brevity(po.Configured):
        ...     Settings = BrevitySettings
        ...     def __init__(self, nats_per_token):
        ...         self.nats_per_token = nats_per_token
        >>> Brevity.table_keys()
        ('nats_per_token',)
    """

    Settings: ClassVar[type[Strict]] = Strict
    """The keys of its table: a strict pydantic model."""

    paths: ClassVar[tuple[str, ...]] = ()
    """Settings that may name a file, which a config gives relative to its own folder."""

    strays: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """What is wrong, and what to do instead, where a key of another kind is in the table."""

    @classmethod
    def table_keys(cls) -> tuple[str, ...]:
        """All that may be in its table."""
        return tuple(cls.Settings.model_fields)

    @classmethod
    def models(cls) -> tuple[type[Strict], ...]:
        """The models that its table may be parsed into."""
        return (cls.Settings,)

    @classmethod
    def stray(
        cls, kind: str, name: str, owner: str, table: Mapping[str, Any]
    ) -> tuple[str, str | None]:
        """What is wrong, and what to do, where a key of the kind `owner` is in its table."""
        del owner, table
        if name in cls.strays:
            what, hint = cls.strays[name]
            return what.format(kind=kind), hint
        return f"'{name}' means nothing to {kind}", f"it has: {', '.join(cls.table_keys())}"

    @classmethod
    def settings_for(cls, table: Mapping[str, Any]) -> type[Strict]:
        """The model that a table with these keys is parsed into. Raises `ValidationError`
        (`core.settings.refused`) for keys that are none of its tables."""
        del table
        return cls.Settings

    @classmethod
    def check(cls, settings: Any, site: Site) -> None:
        """Raises a `PosterioriError` for what can be known to be wrong before anything is loaded:
        nothing, unless a class says so."""

    @classmethod
    def from_settings(cls, settings: Any, site: Site) -> Self:
        """The thing itself."""
        del site
        given = settings.model_fields_set
        return cls(**{name: value for name, value in settings if name in given})
