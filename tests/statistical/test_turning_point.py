"""The turning point that draws and the pairs foretell, against the one of the known utility."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import posteriori as po
from posteriori.errors import ConfigError

PROMPTS, WORDS, LENGTH = ["x", "y"], ["<eos>", "a", "b", "c"], 4
LETTERS = {
    "a": lambda completions, **_: [float(text.count("a")) for text in completions],
    "b": lambda completions, **_: [float(text.count("b")) for text in completions],
    "c": lambda completions, **_: [float(text.count("c")) for text in completions],
    "long": lambda completions, **_: [float(len(text) > 5) for text in completions],
}


def utility(weights):
    def score(completions, **_):
        values = np.array([fn(completions) for fn in LETTERS.values()])
        return (weights @ values).tolist()

    return score


def world(seed: int, num_pairs: int = 25):
    """A prior, a utility of four features, and what few pairs teach of it."""
    prior = po.TabularLM.random(WORDS, LENGTH, PROMPTS, seed=seed)
    weights = np.random.default_rng(seed).normal(0, 1, 4)
    true = po.Target(prior, po.Reward(utility(weights), beta=1.0), PROMPTS, LENGTH)
    pairs = po.simulate_preferences(true, num_pairs, seed=seed)
    learned = po.fit_composition(LETTERS, pairs, held_out_pairs=pairs)
    return prior, weights, learned


def true_turn(prior, weights, learned, turn: po.TurningPoint) -> float:
    """KL of the point at which E_p*_beta[u] is largest, enumerated, on the curve's own betas."""
    exact = po.exact(po.Target(prior, po.Reward(utility(weights), beta=1.0), PROMPTS, LENGTH))
    model = [learned(each.prompts, each.texts) for each in exact.outcomes]
    best, at = -np.inf, 0
    for place, (beta, *_) in enumerate(turn.curve):
        gold = 0.0
        for log_prior, r, u in zip(exact.log_prior, model, exact.reward, strict=True):
            p = (log_prior + torch.tensor(r) / beta).softmax(0)
            gold += float(p @ u) / len(PROMPTS)
        if gold > best + 1e-12:
            best, at = gold, place
    return turn.curve[at][1]


def test_it_is_foretold_within_its_error_in_nine_of_ten_worlds():
    """95% intervals of ten worlds; and they say something: some are no whole curve, and in most
    worlds a turn is likely to be seen."""
    within, narrow, turned = 0, 0, 0
    for seed in range(10):
        prior, weights, learned = world(seed)
        target = po.Target(prior, po.Preferences(learned, beta=1.0), PROMPTS, LENGTH)
        turn = po.turning_point(target, num_samples=1000, num_worlds=400, seed=seed)
        low, high = turn.kl_interval
        truth = true_turn(prior, weights, learned, turn)
        within += low <= truth <= high
        narrow += high - low < 0.9 * turn.curve[-1][1]
        turned += turn.turns > 0.2
    assert within >= 9
    assert narrow >= 2
    assert turned >= 4


def test_without_doubt_it_never_turns():
    """Ten thousand pairs leave no world in which following the model is wrong."""
    prior, _, learned = world(3, num_pairs=3000)
    target = po.Target(prior, po.Preferences(learned, beta=1.0), PROMPTS, LENGTH)
    turn = po.turning_point(target, num_samples=1000, num_worlds=200, seed=0)
    few = world(3)[2]
    doubtful = po.Target(prior, po.Preferences(few, beta=1.0), PROMPTS, LENGTH)
    assert turn.turns < po.turning_point(doubtful, 1000, num_worlds=200, seed=0).turns


def test_it_wants_one_model_that_knows_its_doubt():
    prior, _, learned = world(1)
    two = [po.Preferences(learned, beta=1.0), po.Preferences(learned, beta=2.0)]
    with pytest.raises(ConfigError, match="has 2 Preferences"):
        po.turning_point(po.Target(prior, two, PROMPTS, LENGTH))
    with pytest.raises(ConfigError, match="num_samples=10 must be at least 60"):
        po.turning_point(po.Target(prior, two[0], PROMPTS, LENGTH), 10)
