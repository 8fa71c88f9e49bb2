"""Prompts and pairs as people have them: every form is taken, and what is wrong is said."""

from __future__ import annotations

import csv
import json

import pytest
from acts import PAIRS, ROWS, in_one_line, matches, prior, target

import posteriori as po

datasets = pytest.importorskip("datasets")
pd = pytest.importorskip("pandas")
np = pytest.importorskip("numpy")

CHAT = [{"role": "user", "content": "Say something kind."}]
REPLY = {"role": "assistant", "content": "You are"}


def csv_of(folder, rows, name="data.csv", **settings):
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], **settings)
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def lines_of(folder, rows, name="data.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def parquet_of(folder, rows):
    datasets.Dataset.from_list(rows).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


def saved(folder, rows):
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


def split_of(rows):
    return datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})["train"]


PROMPTS = {
    "a CSV file": lambda folder: csv_of(folder, ROWS),
    "a TSV file by its name": lambda folder: str(csv_of(folder, ROWS, "a.tsv", delimiter="\t")),
    "JSON lines": lambda folder: lines_of(folder, ROWS),
    "a Parquet file": lambda folder: parquet_of(folder, ROWS),
    "a folder of save_to_disk": lambda folder: saved(folder, ROWS),
    "a Dataset": lambda folder: datasets.Dataset.from_list(ROWS),
    "a split of a DatasetDict": lambda folder: split_of(ROWS),
    "a stream": lambda folder: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "a DataFrame": lambda folder: pd.DataFrame(ROWS),
    "a filtered DataFrame": lambda folder: pd.DataFrame([*ROWS, *ROWS]).iloc[2:],
    "a table of pyarrow": lambda folder: datasets.Dataset.from_list(ROWS).data.table,
    "columns": lambda folder: {"prompt": ["You are", "My boss"], "answer": ["kind", "good"]},
    "rows that a generator yields": lambda folder: (row for row in ROWS),
}


@pytest.mark.parametrize("act", PROMPTS)
def test_prompts_and_their_columns_are_read(tmp_path, act):
    read = target(PROMPTS[act](tmp_path), po.Verifier(matches))
    assert list(read.prompts) == ["You are", "My boss"]
    assert list(read.columns["answer"]) == ["kind", "good"]


TEXTS = {
    "a tuple": lambda: ("You are", "My boss"),
    "a generator": lambda: (each["prompt"] for each in ROWS),
    "a Series": lambda: pd.Series(["You are", "My boss"]),
    "an array": lambda: np.array(["You are", "My boss"]),
    "a column of a Dataset": lambda: datasets.Dataset.from_list(ROWS)["prompt"],
}


@pytest.mark.parametrize("act", TEXTS)
def test_texts_are_prompts(act):
    assert list(target(TEXTS[act]()).prompts) == ["You are", "My boss"]


CHATS = {
    "messages": [{"messages": [*CHAT, REPLY]}],
    "a chat as prompt": [{"prompt": CHAT}],
    "ShareGPT": [{"conversations": [{"from": "human", "value": "Say something kind."}]}],
    "chosen and rejected": [
        {"chosen": [*CHAT, REPLY], "rejected": [*CHAT, {"role": "assistant", "content": "No"}]}
    ],
}


@pytest.mark.parametrize("act", CHATS)
def test_conversations_are_prompts(act):
    read = po.prompts(datasets.Dataset.from_list(CHATS[act]))
    assert [dict(each) for each in read.prompts[0]] == CHAT


TEMPLATE = "{% for m in messages %}{{ m.role + ': ' + m.content + ' ' }}{% endfor %}assistant: "


@pytest.fixture
def chatting():
    """The model with a chat template."""
    lm = po.load("tiny")
    lm.tokenizer.chat_template = TEMPLATE
    return lm


def test_an_assistants_message_is_continued(chatting):
    part = chatting.encode([*CHAT, REPLY])
    assert chatting.decode([list(part)])[0].endswith("assistant: You are")


def test_a_chat_without_a_template_says_so(tmp_path):
    def draw(folder):
        po.sample(target([CHAT]), num_samples=2)

    in_one_line(draw, tmp_path, "chat_template")


PREFERENCES = {
    "a Dataset": lambda folder: datasets.Dataset.from_list(PAIRS),
    "a DataFrame": lambda folder: pd.DataFrame(PAIRS),
    "a CSV file": lambda folder: csv_of(folder, PAIRS),
    "a folder of save_to_disk": lambda folder: saved(folder, PAIRS),
    "chats without a prompt": lambda folder: [
        {
            "chosen": [*CHAT, REPLY],
            "rejected": [*CHAT, {"role": "assistant", "content": "You are awful"}],
        }
    ],
}


@pytest.mark.parametrize("act", PREFERENCES)
def test_dpo_takes_pairs(tmp_path, act, chatting):
    pairs = PREFERENCES[act](tmp_path)
    prompts = datasets.Dataset.from_list(list(pairs)) if isinstance(pairs, list) else ROWS
    wanted = po.Target(chatting, po.Power(1.0), prompts, 4)
    fit = po.fit(wanted, "dpo", steps=1, objective_settings={"pairs": pairs})
    assert len(fit.history) == 1


def test_ten_thousand_prompts_end_at_once():
    many = target([f"You are number {at}" for at in range(10_000)], length=1)
    report = po.evaluate(many, prior(), num_samples=2, max_prompts=8)
    assert any("8 of the 10,000 prompts" in str(each) for each in report.findings)
    assert report["kl_to_target"].standard_error_new_prompts is not None


def latin(folder):
    (folder / "data.csv").write_bytes("prompt\nCaf\xe9\n".encode("latin-1"))
    return folder / "data.csv"


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


MISTAKES = {
    "two splits": (
        lambda folder: datasets.DatasetDict(
            {name: datasets.Dataset.from_list(ROWS) for name in ("train", "test")}
        ),
        "split",
    ),
    "a column of another name": (lambda folder: pd.DataFrame({"text": ["hi"]}), "prompt_column"),
    "two columns that are no prompt": (
        lambda folder: csv_of(folder, [{"question": "2+2", "answer": "4"}]),
        "prompt_column",
    ),
    "an empty cell": (lambda folder: pd.DataFrame({"prompt": ["hi", None]}), "prompt"),
    "numbers": (lambda folder: [1, 2, 3], "write a string"),
    "an empty file": (lambda folder: written(folder, "a.csv", ""), "a.csv"),
    "a header alone": (lambda folder: written(folder, "a.csv", "prompt\n"), "a.csv"),
    "a broken line": (
        lambda folder: written(folder, "a.jsonl", '{"prompt": "a"}\n{"prompt": \n'),
        "a.jsonl:2",
    ),
    "another encoding": (latin, "UTF-8"),
    "a spreadsheet": (lambda folder: written(folder, "a.xlsx", "x"), ".csv"),
    "columns of unequal length": (lambda folder: {"prompt": ["a", "b"], "answer": ["c"]}, "answer"),
    "a set": (lambda folder: {"a", "b"}, "sorted"),
    "one string": (lambda folder: "You are", 'prompts=["..."]'),
    "nothing": (lambda folder: [], 'prompts=[""]'),
    "None": (lambda folder: None, 'prompts=["..."]'),
    "a reserved column": (
        lambda folder: [{"prompt": "a", "completions": "b"}],
        "rename it",
    ),
}


@pytest.mark.parametrize("act", MISTAKES)
def test_a_mistake_in_prompts_is_said(tmp_path, act):
    source, told = MISTAKES[act]
    in_one_line(lambda folder: target(source(folder)), tmp_path, told)


WRONG_PAIRS = {
    "no rejected": ([{"prompt": "a", "chosen": "b"}], "rejected"),
    "numbers": ([{"prompt": "a", "chosen": 1, "rejected": 2}], "chosen"),
    "no pairs": ([], "chosen"),
    "a text": ("pairs.txt", ".jsonl"),
}


@pytest.mark.parametrize("act", WRONG_PAIRS)
def test_a_mistake_in_pairs_is_said(tmp_path, act):
    pairs, told = WRONG_PAIRS[act]

    def fit(folder):
        wanted = target(evidence=[po.Power(1.0)])
        po.fit(wanted, "dpo", steps=1, objective_settings={"pairs": pairs})

    in_one_line(fit, tmp_path, told)
