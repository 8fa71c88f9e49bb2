"""Files of JSON that hold anything but what they should: one line, whoever reads them."""

from __future__ import annotations

import shutil

import pytest
from helpers import ORACLE

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.data.formats.json_object import read_object
from posteriori.errors import DataError, ModelError

MODEL = ORACLE / "case_1" / "model"
DAMAGE = {
    "brackets": b"[" * 100_000,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "digits": b'{"vocab_size": ' + b"9" * 10_000 + b"}",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "no UTF-8": b"\xff",
    "half": b'{"a": ',
    "nothing": b"",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_no_object_is_a_value_error(tmp_path, name):
    (tmp_path / "file.json").write_bytes(DAMAGE[name])
    with pytest.raises(ValueError, match=r"nested|digits|holds|decode|Expecting"):
        read_object(tmp_path / "file.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, an adapter and a table, as they are saved."""
    place = tmp_path_factory.mktemp("files")
    shutil.copytree(MODEL, place / "model")
    po.load(MODEL).as_policy("lora", LoraSettings(rank=2), 0).save_pretrained(place / "adapter")
    table = po.TabularLM.random(["<eos>", "a", "b"], 2, ["p"], seed=0)
    table.save_pretrained(place / "table")
    return place


READ = [
    *(f"model/{name}.json" for name in ("config", "generation_config", "tokenizer_config")),
    "model/tokenizer.json",
    *(f"adapter/{name}.json" for name in ("adapter_config", "base_fingerprint")),
    "table/table.json",
]


@pytest.mark.moves_rng
@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("file", READ)
def test_a_damaged_file_of_a_model_is_one_line(files, file, name):
    place = files / file
    whole = place.read_bytes()
    place.write_bytes(DAMAGE[name])
    try:
        with pytest.raises(ModelError) as caught:
            (po.TabularLM.from_pretrained if "table" in file else po.load)(place.parent)
    finally:
        place.write_bytes(whole)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "about",
    [
        b"{}",
        b'{"prompts": null, "vocabulary": null, "eos_token_id": null}',
        b'{"prompts": ["p"], "vocabulary": ["<eos>", "a", "b"], "eos_token_id": 3}',
        b'{"prompts": ["p", "q"], "vocabulary": ["<eos>", "a", "b"], "eos_token_id": 0}',
    ],
)
def test_a_table_that_says_something_else(files, about):
    place = files / "table" / "table.json"
    whole = place.read_bytes()
    place.write_bytes(about)
    try:
        with pytest.raises(ModelError):
            po.TabularLM.from_pretrained(place.parent)
    finally:
        place.write_bytes(whole)


@pytest.mark.parametrize("base", ["3", "null", '""', "[]"])
def test_an_adapter_whose_base_is_no_name(tmp_path, base):
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": {base}}}')
    with pytest.raises(ModelError, match="does not say which base model"):
        po.load(tmp_path)


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", [150, 900, 100_000])
def test_values_that_are_nested_too_deep(tmp_path, levels):
    row = f'{{"prompt": "a", "x": {nested(levels)}}}'
    for name, text in (("a.jsonl", row + "\n"), ("a.json", f"[{row}]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=r"nested more than 100|not valid JSON") as caught:
            po.prompts(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_values_that_hold_themselves():
    circle: list = []
    circle.append(circle)
    with pytest.raises(DataError, match="nested more than 100"):
        po.prompts([{"prompt": "a", "x": circle}])


def test_values_of_a_few_levels_are_taken():
    value = [[[{"a": [1, {"b": [2]}]}]]]
    assert po.prompts([{"prompt": "a", "x": value}]).columns["x"] == [value]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"prompt": "a", "w": NaN}]', "NaN is no JSON number"),
        ('[{"prompt": "a", "w": 1e999}]', "1e999 is too large"),
        ('[{"prompt": "a", "prompt": "b"}]', "the key 'prompt' is there twice"),
        ('{"prompt": ["a"], "w": [Infinity]}', "Infinity is no JSON number"),
    ],
)
def test_json_files_are_read_as_strictly_as_lines(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=said):
        po.prompts(tmp_path / "a.json")
