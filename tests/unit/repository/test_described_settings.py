"""Every key of a run file is described where its settings are, and editors show the words."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import tomllib
from typing import Any

import pytest

import posteriori as po
from posteriori.config.evidence_table import _parsed
from posteriori.config.run_config import RunConfig
from posteriori.config.schema import run_schema
from posteriori.core import registry
from posteriori.core.settings.described import entries_of, fields_of, sections_of
from posteriori.core.settings.parse import parse
from posteriori.core.settings.strict import Strict

WAYS = [
    (kind, model)
    for kind in registry.EVIDENCE
    for model in registry.configured("evidence", kind).models()
]
TABLES = ("prior", "fit", "sample", "evaluate", "reward", "prompts")


def all_settings() -> list[type[Strict]]:
    for module in pkgutil.walk_packages(po.__path__, "posteriori."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, left = [], [Strict]
    while left:
        for each in left.pop().__subclasses__():
            if each not in found and each.__module__.startswith("posteriori."):
                found.append(each)
                left.append(each)
    return found


def test_every_setting_is_described():
    models = all_settings()
    assert len(models) > 60
    for model in models:
        assert set(fields_of(model)) == set(model.model_fields), model
        first = inspect.cleandoc(model.__doc__).splitlines()[0]
        assert first.endswith((".", ":")), f"{model}: {first}"


@pytest.mark.parametrize(("kind", "model"), WAYS, ids=lambda each: getattr(each, "__name__", each))
def test_the_example_of_a_way_to_write_evidence_is_of_that_way(kind, model):
    table = tomllib.loads(example_of(model))["evidence"][0]
    found = _parsed(table)
    assert found.kind == kind
    assert type(found.settings) is model


@pytest.mark.parametrize("name", TABLES)
def test_the_example_of_a_table_is_a_table_of_a_run(name):
    (model,) = (each for each in all_settings() if is_table(name, each))
    table = tomllib.loads(example_of(model))[name]
    parse(model, table, where=name)
    whole = tomllib.loads(example_of(RunConfig))
    assert parse(RunConfig, {**whole, name: table}, where="run.toml")


def is_table(name: str, model: type[Strict]) -> bool:
    section = sections_of(model.__doc__).get("Example", "")
    return model.__module__.startswith("posteriori.config") and section.split()[:1] == [f"[{name}]"]


def example_of(model: type[Strict]) -> str:
    return inspect.cleandoc("\n" + sections_of(model.__doc__)["Example"])


def test_an_editor_is_shown_the_words():
    schema = run_schema(RunConfig)
    bare = [place for place, table in keys_of(schema) if not table.get("description")]
    assert not bare
    described = dict(keys_of(schema))
    assert described["/$defs/RunFitSettings.steps"]["description"] == "gradient steps."
    assert not [place for place, table in keys_of(schema) if "Args:" in table["description"]]


def keys_of(schema: Any, place: str = "") -> list[tuple[str, dict[str, Any]]]:
    """The properties of a schema, but for a kind's own name, and what only refers to a table."""
    found = []
    if isinstance(schema, dict):
        for name, table in schema.get("properties", {}).items():
            if not ("const" in table or set(table) == {"$ref"}):
                found.append((f"{place}.{name}", table))
        for name, inside in schema.items():
            if name != "if":
                found += keys_of(inside, f"{place}/{name}")
    elif isinstance(schema, list):
        for number, inside in enumerate(schema):
            found += keys_of(inside, f"{place}[{number}]")
    return found


def test_words_of_several_lines_and_of_a_class_above():
    class Above(Strict):
        """Something.

        Args:
            width: how wide it is,
                in metres.

        Raises:
            ConfigError: never.
        """

        width: float

    class Below(Above):
        """Something more.

        Args:
            height: how high.
        """

        height: float

    assert fields_of(Below) == {"width": "how wide it is, in metres.", "height": "how high."}
    schema = Below.model_json_schema()
    assert schema["description"] == "Something more."
    assert schema["properties"]["width"]["description"] == "how wide it is, in metres."
    assert entries_of(sections_of(Above.__doc__)["Raises"]) == {"ConfigError": "never."}
