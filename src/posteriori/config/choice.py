"""An algorithm that a config names, with the table of its own settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posteriori.core import registry
from posteriori.core.settings.parse import parse
from posteriori.core.settings.strict import Strict
from posteriori.data.formats.files import data_place
from posteriori.errors import ConfigError, unknown_name

from .site import ConfigSite

_DATA = ("pairs",)
"""Settings that may name a data set of the hub."""


@dataclass(frozen=True)
class Choice:
    """An objective, a sampler, a model loader: its kind and name, and the table of its settings,
    which stands at `site`. The table is parsed once, by the algorithm's own model."""

    kind: str
    name: str
    table: dict[str, Any]
    site: ConfigSite

    @cached_property
    def settings(self) -> Strict:
        """The table as the algorithm's settings, with the files that it names made absolute."""
        return parse(
            registry.configured(self.kind, self.name).Settings, self.given(), where=self.site.where
        )

    def given(self) -> dict[str, Any]:
        """The table as it was written, with the files that it names made absolute. A setting of a
        sampler may as well be one of the sampler's own names, such as the twist "evidence"."""
        if not self.table:
            return {}
        return {**self.table, **{key: str(place) for key, place in self._files().items()}}

    def check(self, where: str, *, making: bool = True, waits: bool = False) -> None:
        """Raises `ConfigError` for a name that is none, or settings that are wrong; `where` is the
        place of the name. Of a built-in algorithm without settings nothing is imported.

        `making`: it is quick to make, and refuses more settings then. `waits`: a file that is named
        may be one that another command is to write, and until it is there nothing more is checked.
        """
        known = registry.names(self.kind)
        if self.name not in known:
            error = unknown_name(self.kind, self.name, known)
            raise ConfigError(error.what, where=where, hint=error.hint)
        if not (self.table or registry.is_plugin(self.kind, self.name)):
            return
        of, given = registry.configured(self.kind, self.name), self.given()
        if waits and any(
            given[key] != self.table[key] and not Path(given[key]).exists() for key in given
        ):
            return
        of.check(self.settings, self.site)
        if making:
            self.make()

    def make(self) -> Any:
        """The algorithm with these settings."""
        of, settings = registry.configured(self.kind, self.name), self.settings
        try:
            return of.from_settings(settings, self.site)
        except ConfigError as error:
            if (error.where or "").startswith(self.site.where):
                raise
            raise self.site.error(error.what, error.hint) from error

    def written(self) -> dict[str, Any]:
        """All settings as a run records them: with files relative to the config's folder, so that
        both can move."""
        settings = self.settings.model_dump(mode="json")
        folder = self.site.folder
        files = {
            key: os.path.relpath(settings[key], folder)
            for key in registry.configured(self.kind, self.name).paths
            if isinstance(settings[key], str) and os.path.isabs(settings[key])
        }
        return {**settings, **files}

    def _files(self) -> dict[str, Path]:
        """Files that the table names, by key. A setting of a sampler may as well be one of the
        sampler's own names, such as the twist "evidence"."""
        if not self.table:
            return {}
        return {
            key: data_place(value, self.site.folder)
            if key in _DATA
            else self.site.path(value).absolute()
            for key in registry.configured(self.kind, self.name).paths
            if isinstance(value := self.table.get(key), str)
            and (self.kind != "sampler" or value.endswith(".safetensors"))
        }
