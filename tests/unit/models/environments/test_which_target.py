"""A lottery in two steps: reverse KL averages over its prizes, conditioning hopes for the best."""

from __future__ import annotations

import pytest
import torch
from coin import DEPTH, LUCK, PLAYERS, WORDS, Luck, coin
from helpers import EOS, outcome_ids, tiny_lm

import posteriori as po

PROMPT = "a"
CONTROL = 3 * LUCK - 4 * (1 - LUCK)


def turns_of(lm: po.LanguageModel) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi of every first turn, and whether it buys a ticket."""
    ids = outcome_ids(WORDS, DEPTH)
    log_prob = lm.log_prob(lm.completions([PROMPT] * len(ids), ids, DEPTH)).detach()
    return log_prob, torch.tensor(
        [y[0] in PLAYERS and y[-1] == EOS and len(y) < DEPTH for y in ids]
    )


def worth(value: float) -> tuple[float, float]:
    """The value of the problem in which a ticket is worth so many nats, and how often its best
    policy buys one: V = log sum_turns prior(turn) exp(worth(turn))."""
    log_prior, buys = turns_of(tiny_lm("llama"))
    total = log_prior + value * buys
    return float(total.logsumexp(0)), float(total.softmax(0)[buys].sum())


def lottery() -> po.Target:
    played = po.InEnvironment(tiny_lm("llama"), coin, max_turns=2)
    return po.Target(played, Luck(), [PROMPT], DEPTH)


def bought(policy: po.LanguageModel) -> float:
    assert isinstance(policy, po.InEnvironment)
    log_prob, buys = turns_of(policy.lm)
    return float(log_prob[buys].exp().sum())


def test_the_two_values_and_what_lies_between():
    """log Z by 20,000 draws, within 5 standard errors (6e-7), and above the value of control."""
    lucky = float(
        torch.tensor([3.0, -4.0]).double().exp() @ torch.tensor([LUCK, 1 - LUCK]).double()
    )
    log_z, often = worth(float(torch.tensor(lucky).log()))
    value, seldom = worth(CONTROL)
    assert log_z > value
    assert often > 3 * seldom
    found = po.sample(lottery(), "importance", 20_000, seed=0).log_z
    assert found is not None
    assert abs(found.value - log_z) < 5 * found.standard_error


@pytest.mark.long
def test_reverse_kl_avoids_the_lottery_and_conditioning_plays_it():
    """The policies, not draws of them, are compared: nothing here is random but the training. Each
    ends nearer to its own optimum than a third of the way to the other one's."""
    lucky = float(
        torch.tensor([3.0, -4.0]).double().exp() @ torch.tensor([LUCK, 1 - LUCK]).double()
    )
    _, conditioned = worth(float(torch.tensor(lucky).log()))
    _, controlled = worth(CONTROL)
    third = (conditioned - controlled) / 3
    settings = {"steps": 60, "num_samples": 64, "seed": 0}
    assert bought(po.fit(lottery(), "rloo", **settings).policy) < controlled + third
    assert bought(po.fit(lottery(), "dpg", **settings).policy) > conditioned - third
