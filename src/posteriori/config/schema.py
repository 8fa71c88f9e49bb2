"""JSON Schema of tables whose keys depend on a name in them."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler

from posteriori.core import registry


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
    return {
        **schema,
        "properties": {key: {"const": name}, **schema.get("properties", {})},
        "required": [key, *schema.get("required", [])],
    }
