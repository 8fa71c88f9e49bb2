"""What the shell can complete beside verbs, options and files: names, and keys of a config."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import shorten
from typing import TYPE_CHECKING, Any, get_args, get_origin

from posteriori.models.bundled import bundled_models, describe

if TYPE_CHECKING:
    from pydantic import BaseModel

_NAMED = {"fit.objective": "objective", "sample.sampler": "sampler", "evidence.0.kind": "evidence"}
"""Settings that have a name of the registry."""


def samplers(incomplete: str) -> list[tuple[str, str]]:
    """Names with the beginning of the line that `posteriori ls` has for them."""
    from .listed import listed

    found = listed("samplers").items()
    return [(name, _short(line)) for name, line in found if name.startswith(incomplete)]


def models(incomplete: str) -> list[tuple[str, str]]:
    """The bundled models that begin so. Where there is none, and where nothing has been typed yet,
    the shell offers files."""
    found = bundled_models().items()
    return [
        (name, _short(describe(path)))
        for name, path in found
        if incomplete and name.startswith(incomplete)
    ]


def settings(incomplete: str) -> list[str]:
    """Keys of a config as `--set` takes them; after the = the values, where they have names."""
    from posteriori.config.run_config import RunConfig
    from posteriori.core.registry import names

    key, equals, _ = incomplete.partition("=")
    if equals:
        known = names(_NAMED[key]) if key in _NAMED else _values(key)
        offered = [f"{key}={value}" for value in known]
    else:
        offered = [f"{key}=" for key, _ in _fields(RunConfig)]
    return [each for each in offered if each.startswith(incomplete)]


def _short(line: str) -> str:
    """Of a length that typer puts on one line."""
    return shorten(line, 50, placeholder="…")


def _values(key: str) -> list[str]:
    """The literals of a setting that is one of a few."""
    from posteriori.config.run_config import RunConfig

    field = dict(_fields(RunConfig)).get(key)
    return [] if field is None else _literals(field)


def _literals(annotation: Any) -> list[str]:
    inner = get_args(annotation)
    return [x for part in inner for x in ([part] if isinstance(part, str) else _literals(part))]


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its type; of a list of tables the first."""
    from pydantic import BaseModel

    from posteriori.config.evidence_table import EvidenceTable
    from posteriori.core.registry import EVIDENCE, configured

    for name, field in model.model_fields.items():
        annotation = field.annotation
        inner = [annotation, *get_args(annotation)]
        tables = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
        first = "0." if get_origin(annotation) is list else ""
        if EvidenceTable in inner:
            yield f"{prefix}{name}.{first}kind", str
            tables = [each for kind in EVIDENCE for each in configured("evidence", kind).models()]
        elif not tables:
            yield f"{prefix}{name}", annotation
        found = [each for table in tables for each in _fields(table, f"{prefix}{name}.{first}")]
        yield from dict(found).items()
