"""A verb's own table of a config, with its options and `--set` put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from posteriori.config.read_config import put, read_toml
from posteriori.core.settings.parse import parse
from posteriori.data.home import expanded
from posteriori.errors import ConfigError

SettingsT = TypeVar("SettingsT", bound=BaseModel)


def read_table(
    form: type[SettingsT],
    name: str,
    config: Path | None,
    given: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    needs: Mapping[str, str],
) -> tuple[SettingsT, Path]:
    """The table `name`, as a `form`, and the folder that its paths count from.

    `given` are options; a path among them counts from the current directory, where the shell has
    completed it. `needs` are the keys without which there is nothing to do, each with an example.
    """
    values: dict[str, Any] = {} if config is None else read_toml(config)
    if config is not None and not isinstance(values.get(name), dict):
        example = " and ".join(f'{key} = "{value}"' for key, value in needs.items())
        raise ConfigError(
            f"'{name}' is missing", where=str(config), hint=f"write a table [{name}] with {example}"
        )
    for override in overrides:
        put(values, override)
    table = dict(values.get(name, {}))
    for key, value in given.items():
        if key != "model" and isinstance(value, str):
            table[key] = str(expanded(value).absolute())
        elif key == "model" and value is not None:
            # A hub id is no path; a folder that is there is one.
            there = expanded(value)
            table[key] = str(there.absolute()) if there.exists() else value
        elif value is not None:
            table[key] = value
    if config is None:
        for key in needs:
            if key not in table:
                raise ConfigError(f"--{key} is missing", hint=f"write --{key} PATH")
    where = f"{config}: {name}" if config else name
    return parse(form, table, where=where), Path.cwd() if config is None else config.parent
