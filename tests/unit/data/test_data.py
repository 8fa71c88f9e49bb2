"""Prompts and pairs from what users have: data sets, tables, files; in Python and in a config."""

from __future__ import annotations

import json
import math

import pytest

import posteriori as po
from posteriori.data.preferences import read_preferences
from posteriori.errors import ConfigError, DataError
from posteriori.models.tabular import TabularLM

ROWS = [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}, {"prompt": "a", "answer": 3}]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def table():
    return TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=0, max_new_tokens=2)


def sources(folder):
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    data = datasets.Dataset.from_list(ROWS)
    frame = pandas.DataFrame(ROWS)
    data.to_parquet(folder / "p.parquet")
    data.save_to_disk(folder / "saved")
    frame.to_csv(folder / "p.csv", index=False)
    frame.to_csv(folder / "p.tsv", index=False, sep="\t")
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "p.json").write_text(json.dumps(ROWS))
    return {
        "rows": ROWS,
        "columns": {name: [row[name] for row in ROWS] for name in ROWS[0]},
        "Dataset": data,
        "DatasetDict": datasets.DatasetDict({"train": data}),
        "IterableDataset": data.to_iterable_dataset(),
        "DataFrame": frame,
        "Table": data.with_format("arrow")[:],
        "a generator": (row for row in ROWS),
        **{name: folder / name for name in ("p.parquet", "p.csv", "p.tsv", "p.jsonl", "p.json")},
        "a folder": folder / "saved",
        "a string": str(folder / "p.csv"),
    }


def test_every_source_says_the_same(tmp_path):
    for name, source in sources(tmp_path).items():
        data = po.prompts(source)
        assert (data.prompts, data.columns) == (["a", "b", "a"], {"answer": [1, 2, 3]}), name


def test_a_target_takes_them_and_rewards_see_each_rows_own_column(tmp_path):
    seen = []

    def reward(prompts, completions, answer, **kwargs):
        seen.extend(zip(prompts, answer, strict=True))
        return [float(each) for each in answer]

    for name, source in sources(tmp_path).items():
        target = po.Target(table(), po.Reward(reward, beta=1.0), source, 2)
        report = po.evaluate(target, target.prior, num_samples=4)
        rewards = [each.value for each in report["mean_reward"].per_prompt]
        assert rewards == [1.0, 2.0, 3.0], name
    assert set(seen) == {("a", 1), ("b", 2), ("a", 3)}


def test_repeated_prompts_keep_their_columns_when_steps_take_a_part_of_them():
    rows = [{"prompt": "ab"[at % 2], "answer": at} for at in range(8)]
    kept = {}

    def reward(prompts, answer, **kwargs):
        for prompt, each in zip(prompts, answer, strict=True):
            kept[each] = prompt
        return [float(each) for each in answer]

    target = po.Target(table(), po.Reward(reward, beta=10.0), rows, 2)
    fit = po.fit(target, "rloo", steps=6, num_samples=2, prompts_per_step=3, learning_rate=0.1)
    assert kept == {row["answer"]: row["prompt"] for row in rows}
    assert len(fit.history) == 6
    again = po.sample(target, "importance", num_samples=2)
    both = type(again).concat([again.select(again.completions.prompt_index_N == 6), again])
    assert target.prompt_positions(both.completions).tolist()[:2] == [6, 6]
    assert both.reward_N.tolist() == target.score(both.completions).reward.tolist()


INFERRED = {
    "prompt": ({"prompt": "q", "n": 1}, "q", {"n"}),
    "a conversation": ({"prompt": TALK[:1]}, TALK[:1], set()),
    "one that the assistant has begun": ({"prompt": TALK}, TALK, set()),
    "messages": ({"messages": TALK}, TALK[:1], {"messages"}),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        TALK[:1],
        {"conversations"},
    ),
    "a pair": (
        {"prompt": "q", "chosen": "x", "rejected": "y"},
        "q",
        {"chosen", "rejected"},
    ),
    "a pair without a prompt": (
        {"chosen": TALK, "rejected": [TALK[0], {**TALK[1], "content": "no"}]},
        TALK[:1],
        {"chosen", "rejected"},
    ),
    "prompt and completion": ({"prompt": "q", "completion": "c"}, "q", {"completion"}),
}


@pytest.mark.parametrize("case", INFERRED)
def test_the_prompt_is_found_as_trl_finds_it(case):
    row, prompt, columns = INFERRED[case]
    data = po.prompts([row])
    assert data.prompts == [prompt]
    assert set(data.columns) == columns


WRONG = {
    "another name": ([{"question": "q"}], DataError, 'write prompt_column = "question"'),
    "a slip": ([{"promt": "q"}], DataError, "rename its 'promt'"),
    "a message": (TALK, ConfigError, "prompts is one conversation"),
    "a number": ([3], ConfigError, r"prompts\[0\] is '3'"),
    "a number among rows": ([{"prompt": 3}], DataError, "'prompt' is 3; write a string"),
    "other columns": (
        [{"prompt": "a", "n": 1}, {"prompt": "b"}],
        DataError,
        r"prompts\[1\]: the row has no 'n', unlike the first row",
    ),
    "the assistant alone": ([{"messages": TALK[1:]}], DataError, "nothing is asked"),
    "columns of two lengths": ({"prompt": ["a"], "n": [1, 2]}, DataError, "prompt 1, n 2"),
    "nothing with rows": (3, ConfigError, "prompts is a int"),
    "reserved": ([{"prompt": "a", "completions": 1}], DataError, "cannot be called 'completions'"),
    "no file": ("nowhere.csv", DataError, "no such file of prompts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_prompt_is_refused_in_one_line(case):
    source, error, message = WRONG[case]
    with pytest.raises(error, match=message) as caught:
        po.prompts(source)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_splits_are_named():
    datasets = pytest.importorskip("datasets")
    two = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_list(ROWS),
            "test": datasets.Dataset.from_list(ROWS[:1]),
        }
    )
    with pytest.raises(DataError, match=r"several splits: train, test; .*prompts\['train'\]"):
        po.prompts(two)
    assert len(po.prompts(two, split="test")) == 1
    with pytest.raises(DataError, match="no split 'tset'"):
        po.prompts(two, split="tset")


def test_csv_cells_are_texts_or_numbers(tmp_path):
    file = tmp_path / "p.csv"
    file.write_bytes(
        'prompt,n,x,zip\n"a, b",1,0.5,01234\n"two\nlines",,2,94110\n12,3,-1e3,00001\n'.encode(
            "utf-8-sig"
        )
    )
    data = po.prompts(file)
    assert data.prompts == ["a, b", "two\nlines", "12"]
    assert data.columns == {
        "n": [1, None, 3],
        "x": [0.5, 2.0, -1000.0],
        "zip": ["01234", "94110", "00001"],
    }
    file.write_text("prompt,n\na,1\nb\n")
    with pytest.raises(DataError, match=r"p\.csv:3: the row has 1 cells and the header 2"):
        po.prompts(file)


def test_a_missing_cell_of_a_frame_is_none_and_nan_of_a_list_stays():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", "b"], "n": [1.0, None]})
    assert po.prompts(frame).columns == {"n": [1.0, None]}
    listed = po.prompts([{"prompt": "a", "n": math.nan}])
    assert math.isnan(listed.columns["n"][0])


def test_a_stream_is_taken_as_far_as_asked():
    def endless():
        at = 0
        while True:
            yield {"prompt": f"p{at}"}
            at += 1

    datasets = pytest.importorskip("datasets")
    assert po.prompts(endless(), max_prompts=3).prompts == ["p0", "p1", "p2"]
    stream = datasets.IterableDataset.from_generator(endless)
    assert po.prompts(stream, max_prompts=2).prompts == ["p0", "p1"]
    assert po.prompts(stream.take(4)).prompts == ["p0", "p1", "p2", "p3"]


def test_a_stream_without_an_end_is_refused(monkeypatch):
    from posteriori.data import rows

    monkeypatch.setattr(rows, "MOST_OF_A_STREAM", 10)
    with pytest.raises(DataError, match=r"goes on after 10 rows; .*max_prompts"):
        po.prompts({"prompt": "p"} for _ in range(20))


def test_a_sample_is_seeded_and_in_order():
    many = [f"p{at}" for at in range(100)]
    few = po.prompts(many, max_prompts=10, seed=3)
    assert few.prompts == po.prompts(many, max_prompts=10, seed=3).prompts
    assert few.prompts != po.prompts(many, max_prompts=10, seed=4).prompts
    assert few.prompts == sorted(few.prompts, key=many.index)
    assert len(set(few.prompts)) == 10


def test_preferences_from_the_same_sources(tmp_path):
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    pairs = [{"prompt": "a", "chosen": "x", "rejected": "y"}] * 2
    data, frame = datasets.Dataset.from_list(pairs), pandas.DataFrame(pairs)
    frame.to_csv(tmp_path / "p.csv", index=False)
    wanted = [pair[:3] for pair in read_preferences(pairs)]
    for source in (data, data.to_iterable_dataset(), frame, tmp_path / "p.csv"):
        assert [pair[:3] for pair in read_preferences(source)] == wanted


def test_dpo_takes_a_data_set():
    datasets = pytest.importorskip("datasets")
    lm = po.load("tiny")
    pairs = datasets.Dataset.from_list(
        [{"prompt": "You are", "chosen": " kind.", "rejected": " bad."}] * 2
    )
    target = po.Target(lm, [], ["You are"], 4)
    fit = po.fit(target, "dpo", objective_settings={"pairs": pairs}, steps=1, learning_rate=1e-3)
    assert len(fit.history) == 1


def test_held_out_prompts_from_a_data_set():
    datasets = pytest.importorskip("datasets")

    def reward(answer, **kwargs):
        return [float(each) for each in answer]

    target = po.Target(table(), po.Reward(reward, beta=1.0), ROWS, 2)
    held_out = datasets.Dataset.from_list(ROWS[:2])
    fit = po.fit(
        target,
        "rloo",
        steps=2,
        num_samples=4,
        learning_rate=0.1,
        evaluate_every=1,
        held_out=held_out,
    )
    assert len(fit.evaluations) == 3


CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"  # noqa: E501


def test_a_reply_that_has_begun_goes_on_as_trl_has_it():
    from trl.data_utils import apply_chat_template

    lm = po.load("tiny")
    lm.tokenizer.chat_template = CHAT
    begun = [TALK[0], {"role": "assistant", "content": "I am"}]
    for prompt in (TALK[:1], begun):
        text = apply_chat_template({"prompt": prompt}, lm.tokenizer)["prompt"]
        assert lm.encode(prompt) == tuple(lm.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert lm.encode([*TALK[:1], {"role": "assistant", "content": ""}]) == lm.encode(TALK[:1])


def test_pairs_go_on_in_a_message_that_has_begun():
    from posteriori.objectives.preference.tokenised_pairs import PreferenceData

    lm = po.load("tiny")
    lm.tokenizer.chat_template = CHAT
    begun = [TALK[0], {"role": "assistant", "content": "I am"}]
    reply = [{"role": "assistant", "content": " kind"}]
    pairs = read_preferences([{"prompt": begun, "chosen": reply, "rejected": reply}])
    data = PreferenceData(pairs, po.Target(lm, [], [begun], 20), seed=0)
    assert "kind" in data.all.texts[0]
    assert "<assistant>" not in data.all.texts[0]
