"""Preference files and settings that cannot work: a typed error with the line, and what to do."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers import tiny_model, word_tokenizer

import posteriori as po
from posteriori.errors import (
    CheckpointError,
    DataError,
    EvidenceError,
    ModelError,
    NonFiniteError,
    PosterioriError,
    PromptError,
)

GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}'
PAIR = json.loads(GOOD)

LINES: dict[str, tuple[str | bytes, str]] = {
    "a missing column": ('{"prompt": "a", "chosen": "b"}', "the row has no 'rejected'"),
    "a misspelt column": (
        '{"prompt": "a", "chosen": "b", "rejectd": "c"}',
        "rename its 'rejectd'",
    ),
    "the same text twice": ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "the same text"),
    "an empty text": ('{"prompt": "a", "chosen": "", "rejected": "c"}', "'chosen' is empty"),
    "a blank text": ('{"prompt": "a", "chosen": "b", "rejected": " \\n"}', "'rejected' is blank"),
    "token ids": ('{"prompt": "a", "chosen": [1], "rejected": [2]}', "a list of token ids"),
    "bytes that are no text": (b'{"prompt": "a\xff", "chosen": "b", "rejected": "c"}', "not UTF-8"),
    "a line cut short": ('{"prompt": "a", "chosen": "b", "rej', "not valid JSON"),
    "no object": ('["a", "b", "c"]', "not an object"),
    "a margin that is NaN": (GOOD[:-1] + ', "margin": NaN}', "NaN is no JSON number"),
    "a margin that is infinite": (GOOD[:-1] + ', "margin": 1e999}', "too large"),
    "a margin in words": (GOOD[:-1] + ', "margin": "much"}', "'margin' is 'much'"),
    "a label above one": (GOOD[:-1] + ', "label": 1.5}', "'label' is 1.5, not a probability"),
    "a label below zero": (GOOD[:-1] + ', "label": -1}', "'label' is -1.0, not a probability"),
    "a label in words": (GOOD[:-1] + ', "label": "tie"}', "'label' is 'tie'"),
    "a label that is true": (GOOD[:-1] + ', "label": true}', "'label' is 'True'"),
}


@pytest.fixture
def no_model(monkeypatch):
    """Fails a test that loads a model before the data has been read."""

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("posteriori.reward_models.fit_reward.load_backbone", refuse)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_no_pair_is_named_before_anything_is_loaded(name, tmp_path):
    line, message = LINES[name]
    raw = line if isinstance(line, bytes) else line.encode()
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b"\n".join([GOOD.encode(), b"", raw, GOOD.encode()]))
    with pytest.raises(DataError) as caught:
        po.fit_reward("tiny", file, output_dir=tmp_path / "out")
    assert str(caught.value).startswith(f"{file}:3: ")
    assert message in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("column", ["margin", "label"])
def test_numbers_that_json_has_not_are_refused_in_lists_of_rows_too(column):
    with pytest.raises(DataError, match=rf"pairs\[1\]: '{column}' is 'nan', not a finite number"):
        po.fit_reward("tiny", [PAIR, {**PAIR, column: math.nan}])


@pytest.mark.usefixtures("no_model")
def test_a_row_of_a_parquet_file_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    file = tmp_path / "pairs.parquet"
    datasets.Dataset.from_list([{**PAIR, "margin": 1.0}, {**PAIR, "margin": math.nan}]).to_parquet(
        file
    )
    with pytest.raises(DataError, match=r"pairs\.parquet, row 2: 'margin' is 'nan'"):
        po.fit_reward("tiny", file)


@pytest.mark.usefixtures("no_model")
def test_a_single_prompt_cannot_be_split():
    with pytest.raises(DataError, match="all 3 pairs have the same prompt") as caught:
        po.fit_reward("tiny", [PAIR] * 3)
    assert "held_out_pairs" in caught.value.hint


@pytest.mark.usefixtures("no_model")
def test_a_file_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        po.fit_reward("tiny", tmp_path / "none.jsonl")
    (tmp_path / "pairs.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no pairs"):
        po.fit_reward("tiny", tmp_path / "pairs.jsonl")


@pytest.mark.usefixtures("no_model")
def test_a_directory_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        po.fit_reward("tiny", two_prompts(), output_dir=tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        po.fit_reward("tiny", two_prompts(), output_dir=tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def two_prompts(**more) -> list[dict]:
    return [{**PAIR, **more}, {**PAIR, "prompt": "d", **more}]


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "lm")
    word_tokenizer().save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


class TestModels:
    def test_that_are_not_there(self, tmp_path):
        with pytest.raises(ModelError, match="there is no model at"):
            po.fit_reward(tmp_path / "nothing", two_prompts())
        with pytest.raises(ModelError, match="cannot load a sequence-classification model"):
            po.fit_reward(tmp_path, two_prompts())

    def test_whose_weights_are_damaged(self, folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ModelError, match="cannot load"):
            po.fit_reward(folder, two_prompts())

    def test_without_a_tokenizer(self):
        with pytest.raises(ModelError, match="without its tokenizer"):
            po.fit_reward(tiny_model(), two_prompts())

    def test_without_a_scalar_head(self):
        with pytest.raises(ModelError, match="no linear layer with a single output"):
            po.fit_reward(tiny_model(), two_prompts(), tokenizer=word_tokenizer())

    def test_that_cannot_take_the_adapter(self, folder):
        with pytest.raises(ModelError, match="LoRA cannot be added"):
            po.fit_reward(
                folder, two_prompts(), tuning="lora", lora={"target_modules": ["nothing"]}
            )

    def test_that_were_never_trained_are_no_evidence(self, folder):
        with pytest.raises(ModelError, match="its scores would be random"):
            po.Preferences(folder, 1.0)

    def test_whose_heads_are_damaged(self, folder, tmp_path):
        place = tmp_path / "out"
        po.fit_reward(folder, two_prompts(), output_dir=place, epochs=1)
        (place / "heads.safetensors").write_bytes(b"no")
        with pytest.raises(ModelError, match="is damaged"):
            po.Preferences(place, 1.0)


def test_texts_beyond_the_context_are_named(folder):
    """The tiny model's context holds 32 tokens."""
    rows = two_prompts(chosen=" b" * 40)
    with pytest.raises(PromptError, match=r"pairs\[\d\]: .* 41 tokens, .* context holds 32"):
        po.fit_reward(folder, rows)
    fit = po.fit_reward(folder, two_prompts(), tuning="head", prior_precision=1.0)
    assert fit.held_out.accuracy.standard_error == math.inf
    longer = po.load(folder).completions(["a " * 29], [[1, 2, 3, 4]])
    with pytest.raises(EvidenceError, match=r"33 tokens, .* context holds 32"):
        po.Preferences(fit, 1.0).score(longer, {})


def test_a_loss_that_is_not_finite_stops_before_the_update_and_keeps_the_best(folder, tmp_path):
    """Margins too large for float32 after a first good step; the model of that step is kept."""
    broken = {**PAIR, "prompt": "e", "margin": 1e300}
    rows = [{**PAIR, "prompt": p} for p in "abcd"] + [broken]
    with pytest.raises(NonFiniteError, match=r"step \d+: the loss is inf .*pairs\[4\]") as caught:
        po.fit_reward(
            folder,
            rows,
            held_out_pairs=two_prompts(),
            batch_size=1,
            evaluate_every=1,
            epochs=2,
            output_dir=tmp_path / "out",
            seed=1,
        )
    assert "lower learning_rate" in caught.value.hint
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    assert step > 0
    kept = po.RewardModel.load(tmp_path / "out" / "checkpoint")
    assert bool(torch.isfinite(kept.reward(["a"], ["b"])).all())
    about = json.loads((tmp_path / "out" / "checkpoint" / "reward.json").read_text())
    assert about["finished"] is False
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == step


def test_whatever_is_refused_is_one_family():
    with pytest.raises(PosterioriError):
        po.fit_reward("tiny", [])
