"""A table of evidence: its kind is found by name, and the kind's own model parses the rest."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from posteriori.core import registry
from posteriori.core.settings.configured import Configured
from posteriori.core.settings.refused import KindTable, refuse, refuse_key, validated
from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict
from posteriori.errors import ConfigError, did_you_mean

from .schema import evidence_schema


@dataclass(frozen=True)
class EvidenceTable(KindTable):
    """One piece of evidence of a config, as it was written and parsed: of which kind it is, and the
    settings of that kind."""

    kind: str
    settings: Strict
    of: type[Configured]
    keys_of_all: ClassVar[tuple[str, ...]] = ("kind",)

    def check(self, site: Site) -> None:
        """Raises a `PosterioriError` for what can be known to be wrong before anything is
        loaded."""
        with _placed(site):
            self.of.check(self.settings, site)

    def build(self, site: Site) -> Any:
        """The evidence."""
        with _placed(site):
            return self.of.from_settings(self.settings, site)

    def written(self) -> dict[str, Any]:
        """What was written, as plain data: a run records it."""
        return {"kind": self.kind, **self.settings.model_dump(mode="json", exclude_unset=True)}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.no_info_plain_validator_function(
            _parsed,
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        del schema
        return evidence_schema(handler)


def _dumped(table: EvidenceTable, info: core_schema.SerializationInfo) -> dict[str, Any]:
    settings = table.settings.model_dump(mode=info.mode, exclude_none=info.exclude_none)
    return {"kind": table.kind, **settings}


def _parsed(
    table: EvidenceTable | Mapping[str, Any] | list[Any] | str | float | None,
) -> EvidenceTable:
    if isinstance(table, EvidenceTable):
        return table
    if not isinstance(table, Mapping):
        refuse(f"{str(table)[:60]!r} is no table", "write it as a table, [[evidence]]")
    keys: dict[str, Any] = {**table}
    kind = keys.pop("kind", None)
    if not isinstance(kind, str):
        refuse("'kind' is missing", 'write kind = "reward"')
    known = registry.names("evidence")
    if kind not in known:
        refuse(f"unknown evidence '{kind}'", did_you_mean(kind, known), ("kind",))
    of = registry.configured("evidence", kind)
    stray = [name for name in keys if name not in of.table_keys()]
    owners = {name: _owner(name) for name in stray}
    for name, owner in owners.items():
        if owner is None:
            refuse_key(name, (*of.table_keys(), "kind"))
    for name, owner in owners.items():
        refuse(*of.stray(kind, name, str(owner), keys))
    return EvidenceTable(kind, validated(of.settings_for(keys), keys), of)


def _owner(name: str) -> str | None:
    """The first built-in kind of evidence that has a key of that name."""
    for kind in registry.EVIDENCE:
        if name in registry.configured("evidence", kind).table_keys():
            return kind
    return None


@contextmanager
def _placed(site: Site) -> Generator[None]:
    """A setting that is refused while evidence is made is one of the config's table."""
    try:
        yield
    except ConfigError as error:
        if (error.where or "").startswith(site.where):
            raise
        raise site.error(error.what, error.hint) from error
