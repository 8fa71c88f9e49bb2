"""`effective_draws` of a step's record: what the policy misses counts against it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import WORDS, generator

import posteriori as po
from posteriori.core.draw import draw
from posteriori.train.effective_draws import EVERY, EffectiveDraws


def number_of_a(completion_ids, **kwargs):
    return [float(y.count(1)) for y in completion_ids]


def target_of(prompts=("x", "y"), beta=1.0) -> po.Target:
    lm = po.TabularLM.random(WORDS[:4], 3, prompts, seed=1)
    return po.Target(lm, po.Reward(number_of_a, beta=beta), lm.prompts, 3)


def exact_effective(target: po.Target, policy, num: int) -> np.ndarray:
    """n / (1 + chi^2(p*, pi)) of each prompt, by enumeration."""
    exact = po.exact(target)
    chi = [
        float((2 * star - pi).logsumexp(0).exp())
        for star, pi in zip(exact.log_posterior, exact.log_prob(policy), strict=True)
    ]
    return num / np.array(chi)


def sharpened(lm: po.TabularLM, power: float) -> po.TabularLM:
    """Nearly all mass on one outcome a prompt."""
    return po.TabularLM(power * lm.logits.detach(), lm.prompts, lm.vocabulary)


def measured(target: po.Target, policy, num: int, seed: int, prompts=None) -> float:
    effective = EffectiveDraws(target, steps=2)
    effective.measure(draw(target, target.prior, num, generator(seed)), target.prior, 0)
    fresh = draw(target, policy, num, generator(seed + 1), prompts)
    assert effective.measure(fresh, policy, 1) > 0, "it costs a pass"
    return effective.figure


def test_a_collapsed_policy_is_not_perfect():
    """Its own draws weigh all the same: (sum w)^2 / sum w^2 calls nearly all of 24 effective."""
    target = target_of()
    policy = sharpened(target.prior, 12.0)
    drawn = draw(target, policy, 24, generator(3))
    own = drawn.log_weight.exp().view(2, 24)
    assert float((own.sum(1) ** 2 / (own**2).sum(1)).mean()) > 20
    assert exact_effective(target, policy, 24).mean() < 0.5
    for seed in range(5):
        assert measured(target, policy, 24, 10 * seed) < 1


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_it_is_what_enumeration_says(power):
    """By 20,000 draws within 10%: over 20 of its own standard errors."""
    target = target_of()
    policy = sharpened(target.prior, power)
    exact = exact_effective(target, policy, 20_000).mean()
    assert measured(target, policy, 20_000, 0) == pytest.approx(exact, rel=0.1)
    alone = measured(target, policy, 20_000, 0, prompts=["x"])
    assert alone == pytest.approx(exact, rel=0.1), "y by the first step's draws alone"


def test_the_target_itself_has_all():
    target = target_of()
    star = po.fit(target, "rloo", steps=150, num_samples=200, learning_rate=0.05).policy
    assert exact_effective(target, star, 24).mean() > 23
    assert measured(target, star, 24, 0) > 20


def test_a_run_that_collapses_records_it():
    history = po.fit(
        target_of(beta=2.0), "rl", steps=100, num_samples=24, learning_rate=0.2
    ).history
    assert history[0]["effective_draws"] > 3
    assert history[-1]["effective_draws"] < 1
    figures = [record["effective_draws"] for record in history]
    assert len(set(figures[: EVERY + 1])) == 2, "in between the last figure holds"


def test_a_resumed_run_records_the_same(tmp_path):
    settings = {"num_samples": 8, "learning_rate": 0.05}
    whole = po.fit(target_of(), "rloo", steps=13, **settings).history

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 4:
            raise Stop

    with pytest.raises(Stop):
        po.fit(
            target_of(),
            "rloo",
            steps=13,
            output_dir=tmp_path,
            on_step=stop,
            checkpoint_every=1,
            **settings,
        )
    resumed = po.fit(
        target_of(),
        "rloo",
        steps=13,
        output_dir=tmp_path,
        resume=True,
        checkpoint_every=1,
        **settings,
    ).history
    figures = [[r["effective_draws"] for r in each] for each in (whole, resumed)]
    assert figures[0] == figures[1]


def test_evidence_that_no_draw_meets_leaves_none():
    lm = po.TabularLM.random(WORDS[:4], 3, ("x",), seed=1)
    target = po.Target(
        lm, po.Constraint(lambda completions, **kw: [False] * len(completions)), lm.prompts, 3
    )
    assert measured(target, sharpened(lm, 2.0), 8, 0) == 0
    assert not math.isnan(measured(target, lm, 8, 0))
    assert torch.is_grad_enabled()
