"""A table of a config, and what may be looked up from its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.data.home import expanded
from posteriori.errors import ConfigError

from .find_model import find_model
from .functions import check_function, check_needs, load_function

if TYPE_CHECKING:
    from posteriori.core.protocols import LanguageModel


@dataclass
class ConfigSite:
    """`posteriori.core.settings.site.Site` of a table in a file."""

    folder: Path
    where: str
    budget: str | None = None
    load: Callable[[str], LanguageModel] | None = None
    """Loads a language model the way the prior is; None while nothing may be loaded."""
    functions: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """The functions that were checked, each with its place."""

    def path(self, name: str) -> Path:
        return self.folder / expanded(name)

    def check_function(self, key: str, reference: str) -> None:
        where = f"{self.where}.{key}"
        check_function(reference, self.folder, where)
        self.functions.append((reference, where))

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raises `ConfigError` where a function that was checked needs an argument that neither the
        library nor one of these columns provides."""
        for reference, where in self.functions:
            check_needs(reference, self.folder, where, columns)

    def function(self, key: str, reference: str) -> Callable[..., Any]:
        return load_function(reference, self.folder, f"{self.where}.{key}")

    def check_model(self, key: str, name: str) -> str:
        return find_model(name, self.folder, f"{self.where}.{key}")

    def language_model(self, key: str, name: str) -> LanguageModel:
        if self.load is None:
            raise self.error("no model is loaded while a config is checked", key=key)
        return self.load(self.check_model(key, name))

    def error(self, what: str, hint: str | None = None, key: str | None = None) -> ConfigError:
        where = self.where if key is None else f"{self.where}.{key}"
        return ConfigError(what, where=where, hint=hint)
