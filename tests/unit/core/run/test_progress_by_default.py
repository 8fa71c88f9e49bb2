"""Progress by default: in a terminal, not in a pipe, and never twice."""

from __future__ import annotations

import pytest

import posteriori as po
from posteriori.core.run import default_progress
from posteriori.errors import ConfigError
from posteriori.models.tabular import TabularLM


def slow(completions, **kwargs):
    return [float(len(text)) for text in completions]


@pytest.fixture
def target():
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a"], seed=0, max_new_tokens=2)
    return po.Target(table, po.Reward(slow, beta=1.0), ["a"], 2)


@pytest.fixture
def shown(monkeypatch):
    """The names of the bars, each shown at once."""
    names = []

    class Bar(default_progress._Bar):
        def __init__(self, name):
            names.append(name)
            super().__init__(name)

    monkeypatch.setattr(default_progress, "_Bar", Bar)
    monkeypatch.setattr(default_progress, "_SECONDS", 0.0)
    monkeypatch.setattr(default_progress, "_mode", None)
    return names


def everything(target):
    po.evaluate(target, target.prior, num_samples=4)
    po.sample(target, "smc", num_samples=4)
    po.frontier(target, num_samples=100)
    po.fit(target, "rloo", steps=2, num_samples=4, learning_rate=0.1, evaluate_every=1)


def test_nothing_is_shown_where_standard_error_is_no_terminal(target, shown, capfd):
    everything(target)
    assert shown == []
    assert "━" not in capfd.readouterr().err


def test_one_bar_each_and_none_inside(target, shown, capfd):
    po.show_progress("on")
    everything(target)
    assert shown == ["evaluating", "sampling", "frontier", "fit: rloo"]
    assert "evaluating" in capfd.readouterr().err


def test_it_can_be_turned_off_and_taken_over(target, shown, monkeypatch):
    monkeypatch.setenv("POSTERIORI_PROGRESS", "on")
    seen = []
    po.evaluate(target, target.prior, num_samples=4, on_progress=lambda *at: seen.append(at))
    assert seen
    po.show_progress("off")
    everything(target)
    assert shown == []
    with pytest.raises(ConfigError, match="unknown mode 'of'; did you mean 'off'"):
        po.show_progress("of")
