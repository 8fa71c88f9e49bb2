"""A complete small job in a temporary folder, and a way to run the command line on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_lm

from posteriori.cli.main import run

CONFIG = """\
output_dir = "runs/one"
prompts = "prompts.jsonl"
max_new_tokens = 3

[prior]
path = "model"

[[evidence]]
kind = "reward"
function = "my_reward.py:score"
beta = 0.5

[fit]
objective = "rloo"
steps = 4
num_samples = 4
learning_rate = 1e-2
checkpoint_every = 2

[evaluate]
num_samples = 40
"""

REWARD = '''\
"""Likes the token 2, times the row's weight."""


def score(completion_ids, weight, **kwargs):
    return [w * sum(t == 2 for t in y) for w, y in zip(weight, completion_ids)]


def never(completions, **kwargs):
    return [False] * len(completions)
'''

PROMPTS = [{"prompt": "a b", "weight": 1}, {"prompt": "c", "weight": 0.5}]


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The message of a command that was refused: one line, and nothing else anywhere."""
        assert self.code != 0, self.out
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.out == ""
        return self.err.removeprefix("error: ").rstrip("\n")


@dataclass(frozen=True)
class Job:
    """A folder with a model, a reward function, prompts and a config."""

    folder: Path
    run: Callable[..., Result]

    @property
    def config(self) -> Path:
        return self.folder / "run.toml"

    @property
    def output(self) -> Path:
        return self.folder / "runs" / "one"

    def change(self, old: str, new: str) -> None:
        """Edit the config's text."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new, 1))

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def fit(self, *arguments: str) -> Result:
        return self.run("fit", str(self.config), *arguments)

    def evaluate(self, *arguments: str) -> Result:
        return self.run("evaluate", str(self.config), *arguments)

    def sample(self, *arguments: str) -> Result:
        return self.run("sample", str(self.config), *arguments)


@pytest.fixture
def cli(capfd, monkeypatch) -> Callable[..., Result]:
    """Runs a command line in this process; returns its exit code and both streams."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> Result:
        capfd.readouterr()
        code = run(arguments)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_lm("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture
def job(tmp_path, saved_model, cli) -> Job:
    (tmp_path / "model").symlink_to(saved_model, target_is_directory=True)
    made = Job(tmp_path, cli)
    made.write("run.toml", CONFIG)
    made.write("my_reward.py", REWARD)
    made.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in PROMPTS))
    return made


@pytest.fixture
def nothing_loads(monkeypatch) -> None:
    """Fails a test in which a model is loaded, or a user's function imported."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr("posteriori.config.models.load", refuse)
    monkeypatch.setattr("posteriori.config.site.load_function", refuse)
