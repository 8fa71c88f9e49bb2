"""What the tests run, in this process or in one of its own."""

from __future__ import annotations

import hashlib
import math
import os
import random
import sys
import time
from pathlib import Path

import torch

import posteriori as po


def count_e(completions, **_):
    return [float(text.count("e")) for text in completions]


def slow(completions, **_):
    """A function of the text that takes a while, and leaves its process's number."""
    (Path(os.environ["RAY_TEST_FOLDER"]) / str(os.getpid())).touch()
    time.sleep(0.05)
    return [float(text.count("e")) for text in completions]


def endless(completions, **_):
    (Path(os.environ["RAY_TEST_FOLDER"]) / str(os.getpid())).touch()
    time.sleep(600)
    return [0.0 for _ in completions]


def noisy(completions, **_):
    return [random.random() + float(torch.rand(())) for _ in completions]


def of_numbers(completions, **_):
    raise ValueError(f"no number in {len(completions)} texts")


def dies(completions, **_):
    os._exit(1)


def target(prompts: int = 12, fn=count_e, tokens: int = 8, beta: float = 1.0) -> po.Target:
    asked = [f"The food number {at} was" for at in range(prompts)]
    return po.Target(po.load("tiny"), po.Reward(fn, beta=beta, max_reward=20.0), asked, tokens)


def digest(draws: po.Draws) -> str:
    """Of all numbers of the draws."""
    made = draws.completions
    parts = (made.tokens_NL, made.lengths_N, made.token_log_prob_NL, draws.log_prior_N)
    whole = hashlib.sha256()
    for each in (*parts, draws.log_evidence_N, draws.reward_N, draws.log_weight):
        whole.update(each.contiguous().numpy().tobytes())
    return whole.hexdigest()


def same_numbers(one: dict, other: dict, within: float) -> bool:
    """Whether two reports have the same figures; infinities and NaN where the other has them."""
    return one.keys() == other.keys() and all(
        math.isclose(each.value, other[name].value, rel_tol=within, abs_tol=within)
        or (math.isnan(each.value) and math.isnan(other[name].value))
        for name, each in one.items()
    )


if __name__ == "__main__":
    # A driver that is to be ended half-way.
    print("begun", flush=True)
    po.sample(target(10, endless), num_samples=16, ray=2)
    sys.exit("it was not ended")
