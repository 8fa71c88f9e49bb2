"""JSON Schema of tables whose keys depend on a name in them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler

from posteriori.core import registry
from posteriori.core.settings.described import described

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def run_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a whole run file, for editors: every table and key, and which
    settings go with which name, of plugins too."""
    schema = model.model_json_schema()
    tables = schema["$defs"]
    fit = tables["RunFitSettings"]
    fit["properties"]["objective"]["enum"] = ["auto", *registry.names("objective")]
    fit["allOf"] = _settings_of("objective", "objective", "objective_settings", tables)
    sample = tables["SampleSettings"]
    sample["properties"]["sampler"]["enum"] = [*registry.names("sampler")]
    sample["allOf"] = _settings_of("sampler", "sampler", "settings", tables)
    loaders = _settings_of("model", "loader", "settings", tables)
    if loaders:
        tables["PriorSettings"]["allOf"] = loaders
    return {"$schema": _DRAFT, **schema}


def _settings_of(kind: str, key: str, settings: str, tables: dict[str, Any]) -> list[Any]:
    """Which settings go with each name of a kind; the models that these use become `tables`."""
    found: list[dict[str, Any]] = []
    for name in registry.names(kind):
        place = f"{kind.replace(' ', '_')}.{name}."
        model = registry.configured(kind, name).Settings
        own = model.model_json_schema(ref_template=f"#/$defs/{place}{{model}}")
        for each, table in own.pop("$defs", {}).items():
            tables[f"{place}{each}"] = table
        tables[f"{place}settings"] = own
        found.append(
            {
                "if": {"properties": {key: {"const": name}}, "required": [key]},
                "then": {"properties": {settings: {"$ref": f"#/$defs/{place}settings"}}},
            }
        )
    return found


def evidence_schema(handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """One of the tables that each kind of evidence may have, plugins' included."""
    tables = [
        _named(handler, model, "kind", kind)
        for kind in registry.names("evidence")
        for model in registry.configured("evidence", kind).models()
    ]
    return {"type": "object", "title": "Evidence", "required": ["kind"], "oneOf": tables}


def _named(handler: GetJsonSchemaHandler, model: Any, key: str, name: str) -> dict[str, Any]:
    """The schema of a model's table that has one more key, with this very value."""
    schema = handler.resolve_ref_schema(handler(model.__pydantic_core_schema__))
    schema = described(model, schema)
    return {
        **schema,
        "properties": {key: {"const": name}, **schema.get("properties", {})},
        "required": [key, *schema.get("required", [])],
    }
