"""A run is resumed for its own target alone, and by one process at a time."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest
from helpers import tiny_lm

import posteriori as po
from posteriori.core.journal.lock import Lock
from posteriori.errors import CheckpointError
from posteriori.runs.directory import RunDirectory
from posteriori.runs.target_fingerprint import digest

pytestmark = pytest.mark.moves_rng
SETTINGS = {"steps": 4, "num_samples": 4, "learning_rate": 0.1, "checkpoint_every": 2}


def count_a(completions, **kwargs):
    return [float(text.count("a")) for text in completions]


def count_b(completions, **kwargs):
    return [float(text.count("b")) for text in completions]


def counter(word, size=1.0):
    def count(completions, **kwargs):
        return [size * text.count(word) for text in completions]

    return count


class Counts:
    def __init__(self, word: str) -> None:
        self.word, self.calls, self.seen = word, 0, []

    def __call__(self, completions, **kwargs):
        self.calls += 1
        self.seen.append(len(completions))
        return [float(text.count(self.word)) for text in completions]


def target(table, reward=count_a, *, beta=1.0, prompts=("p", "q"), length=3, **columns):
    return po.Target(table, po.Reward(reward, beta=beta), prompts, length, **columns)


@pytest.fixture
def table() -> po.TabularLM:
    return po.TabularLM.random(["<eos>", "a", "b"], 3, ["p", "q"], seed=1)


@pytest.fixture
def half_way(table, tmp_path):
    def stop(record):
        if record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        po.fit(target(table), "rloo", **SETTINGS, output_dir=tmp_path / "run", on_step=stop)
    return tmp_path / "run"


OTHERS = {
    "beta of evidence 1": lambda lm: target(lm, beta=5.0),
    "functions of evidence 1": lambda lm: target(lm, count_b),
    "max_reward of evidence 1": lambda lm: po.Target(
        lm, po.Reward(count_a, beta=1.0, max_reward=3.0), ["p", "q"], 3
    ),
    "prompts": lambda lm: target(lm, prompts=("q", "p")),
    "columns": lambda lm: target(lm, columns={"answer": [1, 2]}),
    "max_new_tokens": lambda lm: target(lm, length=2),
    "temper": lambda lm: target(lm).tempered(0.5),
    "evidence 2": lambda lm: po.Target(
        lm, [po.Reward(count_a, beta=1.0), po.Power(2.0)], ["p", "q"], 3
    ),
    "prior": lambda lm: target(po.TabularLM.random(["<eos>", "a", "b"], 3, ["p", "q"], seed=2)),
}


@pytest.mark.parametrize("part", OTHERS)
def test_another_target_is_refused_by_the_part_that_differs(table, half_way, part):
    with pytest.raises(CheckpointError, match="was made for another target") as caught:
        po.fit(OTHERS[part](table), "rloo", **SETTINGS, output_dir=half_way, resume=True)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_bit_of_the_priors_weights_counts(table, half_way):
    table.logits.data[0, 0, 0] += 1e-12
    with pytest.raises(CheckpointError, match="another target: prior has changed"):
        po.fit(target(table), "rloo", **SETTINGS, output_dir=half_way, resume=True)


def test_a_run_without_its_fingerprint_is_refused(table, half_way):
    (half_way / "target.json").unlink()
    with pytest.raises(CheckpointError, match="nothing says what this run is"):
        po.fit(target(table), "rloo", **SETTINGS, output_dir=half_way, resume=True)


def test_other_versions_are_said(table, half_way):
    path = half_way / "versions.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "torch": "1.0"}))
    notes = []
    po.fit(
        target(table),
        "rloo",
        **SETTINGS,
        output_dir=half_way,
        resume=True,
        on_note=notes.append,
    )
    assert any("begun with other versions: torch 1.0, now" in note for note in notes)


@pytest.mark.parametrize("left", ["checkpoints/step-00000002", "policy/model.safetensors"])
def test_a_fresh_run_takes_no_leftovers(table, tmp_path, left):
    (tmp_path / "run" / left).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="says of which"):
        po.fit(target(table), "rloo", **SETTINGS, output_dir=tmp_path / "run")


def score_by(source: str):
    space: dict = {}
    exec(source, space)
    return space["score"]


LINE = "def score(completions, **k):\n    return [float(helper(t)) for t in completions]\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (count_a, count_b),
        (counter("a"), counter("b")),
        (counter("a"), counter("a", 2.0)),
        (Counts("a"), Counts("b")),
        (functools.partial(count_a, weight=1), functools.partial(count_a, weight=2)),
        (lambda completions: [1.0], lambda completions: [2.0]),
        (
            score_by("def helper(t):\n    return len(t)\n" + LINE),
            score_by("def helper(t):\n    return len(t) + 1\n" + LINE),
        ),
        (
            score_by("WORDS = ['a']\ndef helper(t):\n    return t in WORDS\n" + LINE),
            score_by("WORDS = ['b']\ndef helper(t):\n    return t in WORDS\n" + LINE),
        ),
    ],
    ids=["code", "closure", "number", "attribute", "partial", "lambda", "helper", "list"],
)
def test_functions_that_compute_something_else_differ(one, other):
    assert digest(one) != digest(other)


def test_what_a_function_changes_itself_is_not_part_of_it():
    counting = Counts("a")
    before = digest(counting)
    counting(["a", "b"])
    assert digest(counting) == before

    calls, total = [], 0

    def fn(completions):
        nonlocal total
        total += 1
        calls.append(total)
        return completions

    before = digest(fn)
    fn([1.0])
    assert digest(fn) == before


def test_a_comment_or_another_place_changes_nothing():
    body = "    return [len(t) for t in completions]\n"
    assert digest(score_by(f"def score(completions):\n{body}")) == digest(
        score_by(f"# Why.\n\n\ndef score(completions):\n    # Here.\n{body}")
    )


def test_a_second_writer_is_refused_while_the_first_one_lives(table, tmp_path):
    seen = []

    def again(record):
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on") as caught:
            po.fit(target(table), "rloo", **SETTINGS, output_dir=tmp_path / "run", resume=True)
        seen.append(str(caught.value))

    po.fit(target(table), "rloo", **SETTINGS, output_dir=tmp_path / "run", on_step=again)
    assert len(seen) == 4
    assert "another run is writing to" in seen[0]
    assert not (tmp_path / "run" / ".lock").exists()


def test_the_lock_of_a_dead_process_is_taken(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from posteriori.core.journal.lock import Lock\n"
        "Lock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert dead.returncode == -9
    assert (tmp_path / ".lock").exists()
    lock = Lock(tmp_path)
    assert lock.is_held
    lock.release()
    assert not (tmp_path / ".lock").exists()


def test_a_run_that_is_refused_lets_go(tmp_path):
    RunDirectory(tmp_path / "run", {"seed": 0}, resume=False).close()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="seed = 0, and this run has 1"):
            RunDirectory(tmp_path / "run", {"seed": 1}, resume=True)


def test_the_fingerprint_of_several_models_is_always_the_same():
    """Tensors that are made on the way, and gone, give their ids to others."""
    models = [tiny_lm("gpt2", seed=seed) for seed in (0, 1, 2)]
    assert len({digest(models) for _ in range(20)}) == 1
    assert digest([models[0], models[1]]) != digest([models[0], models[0]])
