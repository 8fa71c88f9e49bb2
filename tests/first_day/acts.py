"""How an act of a first day is written down: what is done, and what it has to end in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import posteriori as po
from posteriori.errors import PosterioriError

LONGEST = 400
"""Characters of one line that a person reads to its end."""

ROWS = [{"prompt": "You are", "answer": "kind"}, {"prompt": "My boss", "answer": "good"}]
PAIRS = [
    {"prompt": "You are", "chosen": " kind.", "rejected": " awful."},
    {"prompt": "My boss", "chosen": " is good.", "rejected": " is bad."},
]

Act = Callable[[Path], Any]
"""What is done, in a folder of its own."""


@cache
def prior() -> po.CausalLM:
    """The bundled model, loaded once."""
    return po.load("tiny")


def warmth(completions, **kwargs):
    return [float("good" in text or "kind" in text) for text in completions]


def matches(completions, answer, **kwargs):
    return [word in text for word, text in zip(answer, completions, strict=True)]


def target(prompts: Any = ("You are",), evidence: Any = None, length: int = 4) -> po.Target:
    return po.Target(prior(), evidence or po.Reward(warmth, beta=0.5), prompts, length)


def in_one_line(act: Act, folder: Path, told: str) -> None:
    """The act ends in an error of this library's: one line, which says what to do."""
    with pytest.raises(PosterioriError) as caught:
        act(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) <= LONGEST, line
    assert told in line
