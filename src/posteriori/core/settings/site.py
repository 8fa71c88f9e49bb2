"""Where a table of a config stands, and what may be looked up from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from posteriori.errors import ConfigError

if TYPE_CHECKING:
    from posteriori.core.protocols import LanguageModel


class Site(Protocol):
    """What the settings of one table are checked and built with.

    `where` is the table's place in words, such as "run.toml: evidence.0"; `folder` is the config's,
    from which its paths count. `budget` names the setting of `fit` that replaces the
    evidence's beta, if one does. Methods that begin with `check` load nothing and run no code of
    the user's; each takes the key that the value has, for its error.
    """

    @property
    def where(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def budget(self) -> str | None: ...

    def path(self, name: str) -> Path:
        """A file or folder that the config names, absolute."""
        ...

    def check_function(self, key: str, reference: str) -> None:
        """Raises `ConfigError` unless `file.py:name` or `package.module:name` is defined there and
        needs no argument that nothing provides."""
        ...

    def function(self, key: str, reference: str) -> Callable[..., Any]:
        """The function of that name, imported."""
        ...

    def check_model(self, key: str, name: str) -> str:
        """A bundled name, a path made absolute, or a hub id. Raises `ModelError` for none."""
        ...

    def language_model(self, key: str, name: str) -> LanguageModel:
        """The language model of that name, loaded the way the prior is."""
        ...

    def error(self, what: str, hint: str | None = None, key: str | None = None) -> ConfigError:
        """A `ConfigError` about this table, or one of its keys."""
        ...
