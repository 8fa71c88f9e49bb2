"""JSON Schemas and texts that mean no good: refused when they are read, or answered soon."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import time

import pytest

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError
from posteriori.evidence.text.json_text import JsonText

SOON = 30.0
"""Seconds."""


def allows(schema, text):
    table = po.TabularLM.random(["<eos>", text], 1, ["p"], seed=0)
    target = po.Target(table, po.constraints.json_schema(schema), ["p"], 1)
    return target.score(table.completions(["p"], [[1]], 1)).reward.tolist() == [1.0]


def defs(**schemas):
    return {"$ref": "#/$defs/a", "$defs": schemas}


_HERE = "https://json-schema.org/draft/2020-12/schema"
_OLD = "http://json-schema.org/draft-07/schema#"
_RECURSIVE = "https://json-schema.org/draft/2019-09/schema"

ENDLESS = {
    "itself": {"$ref": "#"},
    "two of each other": defs(a={"$ref": "#/$defs/b"}, b={"$ref": "#/$defs/a"}),
    "three": defs(a={"$ref": "#/$defs/b"}, b={"$ref": "#/$defs/c"}, c={"$ref": "#/$defs/a"}),
    "by anyOf": {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
    "by allOf": defs(a={"allOf": [{"type": "string"}, {"$ref": "#/$defs/a"}]}),
    "by oneOf": {"oneOf": [{"$ref": "#"}]},
    "by not": {"not": {"$ref": "#"}},
    "by then": {"if": {"type": "string"}, "then": {"$ref": "#"}},
    "by dependentSchemas": {"dependentSchemas": {"x": {"$ref": "#"}}},
    "by an anchor": {"$anchor": "me", "$ref": "#me"},
    "by $id": {"$id": "https://here/s", "$ref": "https://here/s"},
    "by $dynamicRef": {"$schema": _HERE, "$dynamicAnchor": "me", "$dynamicRef": "#me"},
    "by $recursiveRef": {"$schema": _RECURSIVE, "$recursiveRef": "#"},
    "in an old draft": {"$schema": _OLD, "definitions": {"a": {"$ref": "#/definitions/a"}}},
    "below a property": {"properties": {"x": {"$ref": "#/properties/x"}}},
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_schema_that_leads_back_to_itself_is_refused(name):
    with pytest.raises(ConfigError, match="back to itself without end"):
        po.constraints.json_schema(ENDLESS[name])


TREES = {
    "a list of itself": ({"type": "array", "items": {"$ref": "#"}}, "[[], [[]]]", "[1]"),
    "a linked list": (
        {"properties": {"next": {"$ref": "#"}}, "required": ["x"]},
        '{"x": 1, "next": {"x": 2}}',
        '{"x": 1, "next": {"y": 2}}',
    ),
    "a tree by names": (
        defs(a={"anyOf": [{"type": "integer"}, {"items": {"$ref": "#/$defs/a"}, "type": "array"}]}),
        "[1, [2, [3]]]",
        '[1, [2, ["x"]]]',
    ),
    "in an old draft": (
        {"$schema": _OLD, "definitions": {"a": {"items": {"$ref": "#/definitions/a"}}},
         "$ref": "#/definitions/a", "type": "string"},
        "[[]]",
        "[",
    ),
    "a name of the keyword": ({"properties": {"$ref": {"type": "string"}}}, '{"$ref": "x"}', "{"),
    "told in an enum": ({"enum": [{"$ref": "#/nowhere"}]}, '{"$ref": "#/nowhere"}', "{}"),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_a_schema_of_trees_is_not(name):
    schema, good, bad = TREES[name]
    assert allows(schema, good)
    assert not allows(schema, bad)


def laughs(levels, keyword, number=2):
    """Each definition asks for the next one several times: number^levels in all."""
    many = {f"d{at}": {keyword: [{"$ref": f"#/$defs/d{at + 1}"}] * number} for at in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**many, f"d{levels}": {"type": "string"}}}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_a_schema_that_grows_without_end_is_refused_at_once(keyword):
    start = time.monotonic()
    with pytest.raises(ConfigError, match="checks a value more than"):
        po.constraints.json_schema(laughs(40, keyword))
    assert time.monotonic() - start < SOON
    assert allows(laughs(3, "allOf"), '"x"')


def test_a_text_that_takes_too_many_references_is_an_error_soon():
    item = {"$ref": "#/$defs/a"}
    schema = defs(a={"type": "array", "items": {"allOf": [item, item, item]}})
    assert allows(schema, "[" * 5 + "]" * 5)
    start = time.monotonic()
    with pytest.raises(EvidenceError, match="more than 50,000 references"):
        allows(schema, "[" * 40 + "]" * 40)
    assert time.monotonic() - start < SOON


def deep(levels):
    return json.loads('{"not":' * levels + "{}" + "}" * levels)


def in_a_circle():
    schema = {"properties": {}}
    schema["properties"]["x"] = schema
    return schema


NO_SCHEMAS = {
    "nested too deep": (lambda: deep(150), "nested more than 100"),
    "nested without end": (lambda: deep(900), "nested more than 100|not made of what JSON has"),
    "in a circle": (in_a_circle, "not made of what JSON has"),
    "a set": (lambda: {"const": {1, 2}}, "not made of what JSON has"),
    "NaN": (lambda: {"minimum": float("nan")}, "not made of what JSON has"),
    "an object": (lambda: {"const": object()}, "a object is in it"),
    "a number": (lambda: 3, "no JSON Schema"),
    "a wrong keyword": (lambda: {"type": "strin"}, "no JSON Schema"),
    "wrong where it refers to": (
        lambda: {"$ref": "#/x", "x": {"properties": []}},
        "no JSON Schema",
    ),
    "a reference to a text": (lambda: {"$ref": "#/type", "type": "string"}, "no JSON Schema"),
    "a reference to nothing": (lambda: {"$ref": "#/$defs/none"}, "nothing is fetched"),
    "another file": (lambda: {"$ref": "other.json"}, "nothing is fetched"),
    "a file of the system": (lambda: {"items": {"$ref": "file:///etc/passwd"}}, "nothing is fet"),
    "no address": (lambda: {"$ref": "http://[::1"}, "no address|nothing is fetched"),
    "an $id that is none": (lambda: {"$id": "http://[::1", "$ref": "#"}, "."),
    "no pattern": (lambda: {"pattern": "(("}, "is not a 'regex'"),
    "a pattern for names": (lambda: {"patternProperties": {"[": True}}, "is not a 'regex'"),
    "a huge pattern": (lambda: {"pattern": "((a{1000}){1000}){1000}"}, "repeats its parts"),
}


@pytest.mark.parametrize("name", NO_SCHEMAS)
def test_what_is_no_schema_is_one_line(name):
    make, message = NO_SCHEMAS[name]
    with pytest.raises(ConfigError, match=message) as caught:
        po.constraints.json_schema(make())
    assert len(str(caught.value)) < 700


FILES = {
    "brackets": b"[" * 100_000,
    "objects": b'{"not":' * 5_000 + b"{}" + b"}" * 5_000,
    "digits": b'{"minimum": ' + b"9" * 10_000 + b"}",
    "no UTF-8": b"\xff\xfe{}",
    "half": b'{"type": ',
    "nothing": b"",
    "infinity": b'{"minimum": Infinity}',
}


@pytest.mark.parametrize("name", FILES)
def test_a_schema_file_that_is_none_is_one_line(tmp_path, name):
    (tmp_path / "schema.json").write_bytes(FILES[name])
    with pytest.raises(ConfigError):
        po.constraints.json_schema(tmp_path / "schema.json")


ANY_TEXT = {
    "brackets": ("[" * 5_000 + "]" * 5_000, False),
    "brackets that a parser takes": ("[" * 900 + "]" * 900, None),
    "digits": ("9" * 10_000, False),
    "digits that fit": ("9" * 1_000, True),
    "a number beyond floats": ("1e999", None),
    "half of a character": ('"\\ud800"', True),
    "NaN": ("NaN", False),
}


@pytest.mark.parametrize("schema", [True, {"multipleOf": 0.5}, {"multipleOf": 3}, defs(a={
    "anyOf": [{"type": ["number", "string"]}, {"type": "array", "items": {"$ref": "#/$defs/a"}}]
})])  # fmt: skip
@pytest.mark.parametrize("name", ANY_TEXT)
def test_no_text_stops_a_run(schema, name):
    text, answer = ANY_TEXT[name]
    json_text = JsonText(schema)
    start = time.monotonic()
    found = json_text.allows(text)
    assert found is answer or answer is None
    json_text.may_begin(text)
    json_text.may_begin(text[: len(text) // 2])
    assert time.monotonic() - start < SOON


def test_multiples_of_large_numbers_are_told():
    assert allows({"multipleOf": 0.5}, "1" + "0" * 400)
    assert not allows({"multipleOf": 1.5}, "1" + "0" * 400)
    assert not allows({"multipleOf": 0.5}, "1e999")


def test_a_pattern_is_stopped_or_fast():
    trap = {"type": "string", "pattern": "^((a|b)*(a|ab)*)*$"}
    start = time.monotonic()
    with contextlib.suppress(EvidenceError):
        assert not allows(trap, '"' + "ab" * 30 + 'c"')
    assert time.monotonic() - start < SOON


def test_a_pattern_of_a_constraint_is_stopped_too(monkeypatch):
    monkeypatch.setattr("posteriori.evidence.text.timed_match.SECONDS", 0.1)
    trap, table = "(?:(?:a|aa)+)+$", po.TabularLM.random(["<eos>", "a" * 50 + "b"], 1, ["p"])
    for match in ("full", "search"):
        target = po.Target(table, po.constraints.regex(trap, match=match), ["p"], 1)
        with pytest.raises(EvidenceError, match=r"takes more than .* without a repetition"):
            target.score(table.completions(["p"], [[1]], 1))


def test_patterns_mean_what_they_did():
    assert allows({"type": "string", "pattern": "b+"}, '"abc"')
    assert not allows({"type": "string", "pattern": "^b+"}, '"abc"')
    named = {"patternProperties": {"^n": {"type": "number"}}}
    assert allows(named, '{"n": 1, "m": "x"}')
    assert not allows(named, '{"n": "x"}')


def test_a_schema_may_be_copied_and_sent():
    constraint = po.constraints.json_schema({"type": "array", "items": {"$ref": "#"}})
    for other in (copy.deepcopy(constraint), pickle.loads(pickle.dumps(constraint))):
        assert other.fn(completions=["[[]]", "[1]"]) == [True, False]
