"""Reward functions that misbehave, in a module that a process of its own can import quickly."""

from __future__ import annotations

import itertools
import os
import time

FOREVER = 3600.0


def length(completions, **kwargs):
    return [float(len(text)) for text in completions]


def where_it_ran(completions, **kwargs):
    return [float(os.getpid())] * len(completions)


def logs(completions, trainer_state, log_metric, log_extra, **kwargs):
    log_metric("length", sum(map(len, completions)) / len(completions))
    log_metric("step", trainer_state.global_step)
    log_extra("text", completions)
    return length(completions)


def hangs_on_b(completions, **kwargs):
    if any("b" in text for text in completions):
        time.sleep(FOREVER)
    return length(completions)


def raises_on_b(completions, **kwargs):
    if any("b" in text for text in completions):
        raise ConnectionError("no answer about b")
    return length(completions)


def dies_on_b(completions, **kwargs):
    if any("b" in text for text in completions):
        os._exit(7)
    return length(completions)


def too_few(completions, **kwargs):
    return [0.0] * (len(completions) - 1)


class RaisesOnceIn:
    """Raises on every n-th call, starting with the first."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.calls = itertools.count()

    def __call__(self, completions, **kwargs):
        if next(self.calls) % self.every == 0:
            raise TimeoutError("busy")
        return length(completions)
