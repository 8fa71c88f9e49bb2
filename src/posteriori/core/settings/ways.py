"""A kind of evidence that can be written in several ways, each known by a key of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .configured import Configured
from .refused import refuse
from .site import Site
from .strict import Strict


class Way(Strict):
    """The settings of one way to write a kind of evidence: `regex = ...` of a constraint."""

    own: ClassVar[str]
    """The key that says that it is this way."""
    says: ClassVar[str] = ""
    """What the evidence says of the text, for `posteriori ls`; empty where the user's function or
    model says it."""
    example: ClassVar[str] = ""
    """How its own key is written."""

    def check(self, site: Site) -> None:
        """Raises a `PosterioriError` for what can be known to be wrong before anything is
        loaded."""

    def build(self, site: Site) -> Any:
        """The evidence."""
        raise NotImplementedError


class Ways(Configured):
    """A kind of evidence with several ways; its table is parsed by the model of one of them."""

    kind: ClassVar[str]
    ways: ClassVar[tuple[type[Way], ...]]
    """Where a table has the own keys of two, the first one's model has both, or neither fits."""

    @classmethod
    def table_keys(cls) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for way in cls.ways for name in way.model_fields))

    @classmethod
    def models(cls) -> tuple[type[Strict], ...]:
        return cls.ways

    @classmethod
    def stray(
        cls, kind: str, name: str, owner: str, table: Mapping[str, Any]
    ) -> tuple[str, str | None]:
        if name in cls.strays:
            return super().stray(kind, name, owner, table)
        if not any(way.own in table for way in cls.ways):
            return f"a {kind} cannot be made of '{name}'", cls.how()
        return f"a {kind} has no '{name}'", f'it is for kind = "{owner}"'

    @classmethod
    def settings_for(cls, table: Mapping[str, Any]) -> type[Way]:
        chosen = [way for way in cls.ways if way.own in table]
        if not chosen:
            cls._refuse_none(table)
        way = chosen[0]
        fitting = way.model_fields
        for name in table:
            if name not in fitting and name in cls.table_keys():
                cls._refuse_pair(way, name, chosen)
        for name, field in fitting.items():
            if field.is_required() and name not in table:
                refuse(f"'{name}' is missing; write {name} = ...", f"'{way.own}' needs it")
        return way

    @classmethod
    def check(cls, settings: Way, site: Site) -> None:
        settings.check(site)

    @classmethod
    def from_settings(cls, settings: Way, site: Site) -> Any:
        return settings.build(site)

    @classmethod
    def how(cls) -> str:
        """The ways that there are, in words."""
        return "write " + " or ".join(f"{way.own} = ..." for way in cls.ways)

    @classmethod
    def _refuse_none(cls, table: Mapping[str, Any]) -> None:
        plain = [way for way in cls.ways if not way.says]
        of_plain = {name for way in plain for name in way.model_fields}
        stray = next((name for name in table if name not in of_plain), None)
        if stray is not None:
            refuse(f"a {cls.kind} cannot be made of '{stray}'", cls.how())
        if not plain:
            refuse(f"a {cls.kind} of nothing", cls.how())
        refuse(f"'{plain[0].own}' is missing", cls._examples(plain))

    @classmethod
    def _refuse_pair(cls, way: type[Way], name: str, chosen: list[type[Way]]) -> None:
        other = next((each for each in chosen if each.own == name), None)
        if other is not None and not way.says and not other.says:
            refuse(
                f"both '{way.own}' and '{name}' are given",
                cls._examples([each for each in cls.ways if not each.says]),
            )
        fitting = sorted(set(way.model_fields) - {way.own})
        refuse(
            f"'{way.own}' and '{name}' do not go together in a {cls.kind}",
            f"beside '{way.own}' it takes: {', '.join(fitting)}",
        )

    @classmethod
    def _examples(cls, ways: list[type[Way]]) -> str:
        return "write " + " or ".join(f"{way.own} = {way.example}" for way in ways)
