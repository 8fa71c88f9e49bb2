"""Preference data as TRL's trainers take it: reading, refusing, tokenising."""

from __future__ import annotations

import json
import sys

import pytest
from helpers import tiny_lm, word_tokenizer

import posteriori as po
from posteriori.data.preferences import preference, read_preferences
from posteriori.errors import DataError, PromptError
from posteriori.objectives.preference.tokenised_pairs import PreferenceData

TEMPLATE = (
    "{% for m in messages %}{{ 'a ' if m.role == 'user' else 'b ' }}{{ m.content }} <eos> "
    "{% endfor %}{% if add_generation_prompt %}b {% endif %}"
)


def flat(completions, **kwargs):
    return [0.0 for _ in completions]


def tokens(rows, max_new_tokens=4, **tokenizer) -> list[list[int]]:
    lm = tiny_lm(tokenizer=word_tokenizer(**tokenizer))
    target = po.Target(lm, po.Reward(flat, beta=1.0), ["a"], max_new_tokens)
    data = PreferenceData(read_preferences(rows), target, seed=0)
    return data.all.completion_ids


def says(role, content):
    return {"role": role, "content": content}


def test_completions_end_once_or_are_cut():
    rows = [{"prompt": "a b", "chosen": " c d", "rejected": " c d e a b"}]
    assert tokens(rows) == [[3, 4, 0], [3, 4, 5, 1]]
    rows = [{"prompt": "a", "chosen": " c <eos>", "rejected": " c <eos> d"}]
    assert tokens(rows) == [[3, 0], [3, 0]]
    rows = [{"prompt": "a", "chosen": [3, 4], "rejected": [3, 0]}]
    assert tokens(rows) == [[3, 4, 0], [3, 0]]


def test_a_token_across_the_seam_leaves_the_prompt_as_it_is():
    """ "ab" is no word: the prompt's tokens are those that the policy is asked with."""
    assert tokens([{"prompt": "a", "chosen": "b", "rejected": " b"}]) == [[2, 0], [2, 0]]


def test_conversations_go_through_the_chat_template():
    prompt = [says("user", "c")]
    explicit = {
        "prompt": prompt,
        "chosen": [says("assistant", "d")],
        "rejected": [says("assistant", "e a")],
    }
    assert tokens([explicit], chat_template=TEMPLATE) == [[4, 0], [5, 1, 0]]
    implicit = {key: prompt + explicit[key] for key in ("chosen", "rejected")}
    assert preference(implicit, "") == preference(explicit, "")
    with_a_copy = {"prompt": "c", **implicit}
    assert preference(with_a_copy, "") == preference(explicit, "")


def test_a_conversation_needs_a_template():
    row = {
        "chosen": [says("user", "c"), says("assistant", "d")],
        "rejected": [says("user", "c"), says("assistant", "e")],
    }
    with pytest.raises(PromptError, match=r"pairs\[0\]: .*chat template"):
        tokens([row])


def test_texts_without_a_prompt_share_their_beginning():
    row = {"chosen": "the sky is blue", "rejected": "the sky is blank"}
    pair = preference(row, "")
    assert (pair.prompt, pair.chosen, pair.rejected) == ("the sky is", " blue", " blank")
    assert preference({"chosen": "yes", "rejected": "no"}, "").prompt == ""


def test_prompts_that_are_too_long_are_named():
    """The tiny model's context holds 32 tokens."""
    fits = {"prompt": "a " * 29, "chosen": "b c", "rejected": "c"}
    assert tokens([fits]) == [[2, 3, 0], [3, 0]]
    rows = [fits, {**fits, "prompt": "a " * 30}]
    with pytest.raises(PromptError, match=r"pairs\[1\]: the prompt has 30 tokens .* holds 32"):
        tokens(rows)


GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
WRONG = {
    '{"prompt": "a", "chosen": "b"': "not valid JSON",
    '{"prompt": "a", "chosen": "b"}': "the row has no 'rejected'",
    '{"prompt": "a", "chosen": "b", "reject": "c"}': "rename its 'reject'",
    '{"prompt": "a", "chosen": "b", "rejected": null}': "the row has no 'rejected'",
    '{"prompt": "a", "chosen": "", "rejected": "c"}': "'chosen' is empty",
    '{"prompt": "a", "chosen": 1, "rejected": "c"}': "'chosen' is 1",
    '{"prompt": 1, "chosen": "b", "rejected": "c"}': "'prompt' is 1",
    '{"prompt": "a", "chosen": ["b"], "rejected": "c"}': "'chosen' is ['b']",
    '{"chosen": "b", "rejected": "b"}': "a completion would be empty",
    '{"chosen": [0], "rejected": [1]}': "the row has no 'prompt'",
    '{"prompt": "a", "chosen": "b", "rejected": [1]}': "'chosen' is a string and 'rejected' is a",
    '{"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}': "'prompt' is",
    json.dumps(
        {
            "prompt": [says("user", "a")],
            "chosen": [says("assistant", "b"), says("user", "c")],
            "rejected": [says("assistant", "c")],
        }
    ): "after the prompt 'chosen' has 2 messages",
    json.dumps(
        {
            "prompt": [says("user", "a")],
            "chosen": [says("assistant", "")],
            "rejected": [says("assistant", "c")],
        }
    ): "'chosen' is empty",
    json.dumps({"chosen": [says("user", "a")], "rejected": [says("user", "b")]}): "in common",
    "[1]": "not an object",
    '{"prompt": "a", "prompt": "a", "chosen": "b", "rejected": "c"}': "there twice",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_row_that_is_no_pair_is_refused_with_its_line(line, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(GOOD + "\n" + line + "\n" + GOOD)
    with pytest.raises(DataError) as caught:
        read_preferences(file)
    assert str(caught.value).startswith(f"{file}:3: ")
    assert WRONG[line] in str(caught.value)
    assert caught.value.hint


def test_a_file_that_is_not_there_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_preferences(tmp_path / "none.jsonl")
    for name in ("pairs.docx", "pairs.txt"):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match=rf"from a '\.{name[6:]}' file"):
            read_preferences(tmp_path / name)
    (tmp_path / "pairs.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no pairs"):
        read_preferences(tmp_path / "pairs.jsonl")


def test_parquet_and_saved_data_sets_hold_the_same_pairs(tmp_path):
    datasets = pytest.importorskip("datasets")
    talk = {
        "prompt": [says("user", "c")],
        "chosen": [says("assistant", "d")],
        "rejected": [says("assistant", "e")],
        "score": 1.0,
    }
    for name, rows in {
        "plain": [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2,
        "conversations": [talk] * 2,
    }.items():
        data = datasets.Dataset.from_list(rows)
        data.to_parquet(tmp_path / f"{name}.parquet")
        data.save_to_disk(tmp_path / name)
        wanted = [pair[:3] for pair in read_preferences(rows)]
        for path in (tmp_path / f"{name}.parquet", tmp_path / name):
            found = read_preferences(path)
            assert [pair[:3] for pair in found] == wanted
            assert found[1].where == f"{path}, row 2"
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match=r"several splits: train, test; .*splits/train"):
        read_preferences(tmp_path / "splits")
    assert len(read_preferences(tmp_path / "splits" / "train")) == 2
    (tmp_path / "broken.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read"):
        read_preferences(tmp_path / "broken.parquet")


def test_without_datasets_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "pairs.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install datasets .*posteriori\[bench\]"):
        read_preferences(tmp_path / "pairs.parquet")
