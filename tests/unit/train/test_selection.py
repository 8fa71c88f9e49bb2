"""Which policy of a run is handed back."""

from __future__ import annotations

import math

import pytest
import torch

import posteriori as po
from posteriori.train.selection import Selection
from posteriori.train.step_size.step_signal import Signal


def run_through(gains: list[float], error: float = 0.1) -> Selection:
    """A run whose weights before step n are n, with these gains."""
    selection = Selection(len(gains))
    for step, gain in enumerate(gains):
        state = {"w": torch.tensor(float(step))} if selection.begins(step) else None
        selection.add(step, state, Signal(gain, error**2, 0.0, 0.0, 0.0))
    return selection


def test_a_run_that_gains_hands_back_its_last_policy():
    assert run_through([0.1 * step for step in range(20)]).chosen() is None


def test_noise_is_no_reason_to_go_back():
    """Differences of a standard error, of two windows' means."""
    gains = [0.0, *(1.0 + 0.1 * (step % 3) for step in range(19))]
    assert run_through(gains, error=0.3).chosen() is None


def test_a_run_that_only_loses_hands_back_the_prior_and_says_so():
    chosen = run_through([-0.1 * step for step in range(20)]).chosen()
    assert chosen is not None
    assert float(chosen.state["w"]) == 0.0
    assert chosen.finding.level == "stop"
    assert "nats" in chosen.finding.message


def test_a_run_that_goes_past_its_best_hands_that_back():
    gains = [float(min(step, 12)) if step < 16 else 6.0 for step in range(20)]
    chosen = run_through(gains).chosen()
    assert chosen is not None
    assert float(chosen.state["w"]) == 12.0, "the first of the best windows"
    assert chosen.finding.level == "warn"


def test_it_goes_on_from_its_state():
    gains = [math.sin(step) - 0.2 * step for step in range(20)]
    whole, first = run_through(gains), Selection(20)
    for step in range(20):
        if step == 7:
            state, first = first.state_dict(), Selection(20)
            first.load_state_dict(state)
        weights = {"w": torch.tensor(float(step))} if first.begins(step) else None
        first.add(step, weights, Signal(gains[step], 0.01, 0.0, 0.0, 0.0))
    assert first.chosen() == whole.chosen()


def likes_b(completions, **kwargs):
    return [float(text.count("b")) for text in completions]


def test_fit_never_hands_back_what_is_farther_than_the_prior(table, tmp_path):
    """A rate at which training destroys the policy."""
    target = po.Target(table, po.Reward(likes_b, beta=1.0), table.prompts, 3)
    notes = []
    settings = {"steps": 40, "num_samples": 16, "learning_rate": 100.0, "decay": "none"}
    fitted = po.fit(target, "rloo", output_dir=tmp_path, on_note=notes.append, **settings)
    exact = po.exact(target)
    kept, prior = (exact.evaluate(lm)["kl_to_target"].mean() for lm in (fitted.policy, table))
    last = exact.evaluate(po.TabularLM.from_pretrained(tmp_path / "policy-last"))
    assert kept <= prior < last["kl_to_target"].mean()
    assert [finding.level for finding in fitted.findings] == ["stop"]
    assert notes == [str(fitted.findings[0])]


@pytest.mark.parametrize("objective", ["rl", "ipo"])
def test_what_does_not_aim_at_the_target_is_not_judged_by_it(table, objective):
    target = po.Target(table, po.Reward(likes_b, beta=1.0), table.prompts, 3)
    fitted = po.fit(target, objective, steps=20, num_samples=16, learning_rate=10.0)
    assert fitted.findings == ()
