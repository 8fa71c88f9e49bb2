"""A TOML file and `--set` overrides, as a checked `RunConfig`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posteriori.core.settings.parse import parse
from posteriori.data.plain_values import is_dict, is_list
from posteriori.errors import ConfigError

from .run_config import RunConfig


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config at `path` with each `key.path=value` of `overrides` put in.

    Raises `ConfigError` for a missing file, broken TOML (with its line), an override that has no
    place, and whatever `RunConfig` refuses.
    """
    values = read_toml(path)
    for override in overrides:
        put(values, override)
    return parse(RunConfig, values, where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        kind = "is a directory" if path.is_dir() else "there is no such file"
        raise ConfigError(kind, where=str(path), hint="give the path of a TOML config")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            "not UTF-8 text", where=f"{path}:{line}", hint="save the file as UTF-8"
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r"\(at line (\d+), column \d+\)", message)
        line = int(found.group(1)) if found else text.rstrip("\n").count("\n") + 1
        what = message.split(" (at ")[0]
        raise ConfigError(
            f"not valid TOML: {what[0].lower()}{what[1:]}",
            where=f"{path}:{line}",
            hint='strings need quotes, as in path = "tiny"',
        ) from error
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, and brackets within brackets without end.
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(
            f"the config cannot be read: {why.split(';')[0].lower()}",
            where=str(path),
            hint="write plain numbers and tables",
        ) from error


def put(values: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` or `evidence.0.beta=value` in place."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"--set {override!r} is not key=value", hint="write --set fit.learning_rate=1e-3"
        )
    current: Any = values
    for at, part in enumerate(parts[:-1]):
        if is_dict(current):
            current = current.setdefault(part, {})
        else:
            current = _item(current, part, key, parts[:at])
    last = parts[-1]
    if is_dict(current):
        current[last] = toml_value(text)
    else:
        _item(current, last, key, parts[:-1])
        current[int(last)] = toml_value(text)


def toml_value(text: str) -> Any:
    """`text` as a TOML value, and as the string that it is where it is none."""
    try:
        parsed = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def _item(current: Any, part: str, key: str, before: Sequence[str]) -> Any:
    place = ".".join(before)
    if not is_list(current):
        raise ConfigError(f"--set {key}: '{place}' is a value, not a table", hint=f"set {place}")
    if not (part.isdecimal() and int(part) < len(current)):
        raise ConfigError(
            f"--set {key}: '{place}' is a list of {len(current)}, and '{part}' is none of its "
            "positions",
            hint=f"write {place}.0 to {place}.{len(current) - 1}",
        )
    return current[int(part)]


def as_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as flat `a.b.0.c` keys, the way `--set` writes them; unset ones left out."""
    if is_dict(value):
        items = [(str(key), inner) for key, inner in value.items()]
    elif is_list(value) and any(is_dict(inner) for inner in value):
        items = [(str(at), inner) for at, inner in enumerate(value)]
    else:
        return {} if value is None else {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat.update(as_settings(inner, f"{prefix}.{key}" if prefix else key))
    return flat
