"""Compositional preference models: the fit, its uncertainty, and the target by enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError

PROMPTS, WORDS = ["x", "y"], ["<eos>", "a", "b"]


def count_a(completions, **_):
    return [text.count("a") for text in completions]


def ends_b(completions, **_):
    return [text.endswith("b") for text in completions]


FEATURES = {"a": count_a, "ends": ends_b}
TRUTH = np.array([0.9, -1.5])


def pairs(num: int = 400, seed: int = 0) -> list[dict]:
    """Preferences by a known utility of raw features, on random texts."""
    random = np.random.default_rng(seed)
    rows = []
    while len(rows) < num:
        one, two = ("".join(random.choice(["a", "b", "c"], 6)) for _ in range(2))
        phi = np.array([[t.count("a"), t.endswith("b")] for t in (one, two)], dtype=float)
        better = random.random() < 1 / (1 + math.exp(-TRUTH @ (phi[0] - phi[1])))
        chosen, rejected = (one, two) if better else (two, one)
        if chosen != rejected:
            rows.append({"prompt": f"q{len(rows)}", "chosen": chosen, "rejected": rejected})
    return rows


def raw_weights(fitted: po.Composition) -> np.ndarray:
    return (fitted.posterior.mean_D / fitted.scale_K).numpy()


def test_the_weights_are_the_maximum_a_posteriori():
    """By another optimiser, on the same pairs: to 1e-6."""
    rows = pairs(100)
    fitted = po.fit_composition(FEATURES, rows, held_out_pairs=rows, prior_precision=0.7)
    phi = {
        which: np.array([[r[which].count("a"), r[which].endswith("b")] for r in rows], dtype=float)
        for which in ("chosen", "rejected")
    }
    diff = (phi["chosen"] - phi["rejected"]) / fitted.scale_K.numpy()
    found = minimize(
        lambda w: np.logaddexp(0, -diff @ w).sum() + 0.35 * w @ w, np.zeros(2), tol=1e-12
    )
    np.testing.assert_allclose(fitted.posterior.mean_D.numpy(), found.x, atol=1e-5)


def test_the_truth_is_within_its_errors():
    """10 data sets x 2 weights within 5.5 standard errors: a false alarm in 10^6."""
    for seed in range(10):
        fitted = po.fit_composition(FEATURES, pairs(seed=seed))
        scale = fitted.scale_K.numpy()
        errors = np.array([each.standard_error for each in fitted.weights.values()]) / scale
        assert (abs(raw_weights(fitted) - TRUTH) < 5.5 * errors).all()
        assert (errors < 0.5).all()
    assert fitted.held_out.accuracy.value > 0.6
    assert fitted.findings == ()


def test_the_target_by_enumeration():
    """p* = prior exp(w . z / beta), by hand; a lower bound with kappa sd; a wrong centre changes
    nothing, because it is the same for all, and a wrong scale does."""
    prior = po.TabularLM.random(WORDS, 3, PROMPTS, seed=5)
    fitted = po.fit_composition(FEATURES, pairs(100))
    w = raw_weights(fitted)

    def law(exact, at, w, beta=0.5):
        phi = np.array([[t.count("a"), t.endswith("b")] for t in exact.outcomes[at].texts], float)
        log_p = exact.log_prior[at] + torch.tensor(phi @ w) / beta
        return log_p - log_p.logsumexp(0)

    for evidence in (po.Reward(fitted, beta=0.5), po.Preferences(fitted, beta=0.5)):
        exact = po.exact(po.Target(prior, evidence, PROMPTS, 3))
        for at in range(len(PROMPTS)):
            torch.testing.assert_close(
                exact.log_posterior[at], law(exact, at, w), rtol=0, atol=1e-8
            )
            wrong = law(exact, at, fitted.posterior.mean_D.numpy())
            assert float((exact.log_posterior[at] - wrong).abs().max()) > 1e-2
    low = po.exact(po.Target(prior, po.Preferences(fitted, 0.5, "lower", kappa=2.0), PROMPTS, 3))
    z_NK = fitted.features(low.outcomes[0].prompts, low.outcomes[0].texts)
    wanted = (
        z_NK @ fitted.posterior.mean_D - 2.0 * (z_NK @ fitted.posterior.root_DD).norm(dim=1)
    ) / 0.5
    torch.testing.assert_close(low.log_evidence[0], wanted, rtol=0, atol=1e-8)


def test_a_judge_is_a_feature():
    judge = po.Judge("tiny", "Is it polite?", yes=["Yes"], no=["No"])
    rows = [
        {"prompt": f"Dish {n} is", "chosen": f" good {n}", "rejected": f" bad {n}"}
        for n in range(20)
    ]
    fitted = po.fit_composition({"polite": judge}, rows)
    lm = po.load("tiny")
    drawn = lm.sample(["The food is"], 4, 6, torch.Generator().manual_seed(0))
    z = fitted.features(drawn.prompts, drawn.texts)[:, 0] * fitted.scale_K + fitted.centre_K
    torch.testing.assert_close(z, judge.score(drawn, {}).reward, rtol=0, atol=1e-12)


def constant(completions, **_):
    return [1.0] * len(completions)


def twice(completions, **_):
    return [2.0 * text.count("a") for text in completions]


def wrong(completions, **_):
    return [math.nan] * len(completions)


def test_what_tells_nothing_is_refused():
    rows = pairs(30)
    with pytest.raises(ConfigError, match="'same' is the same for both texts"):
        po.fit_composition({"same": constant}, rows)
    with pytest.raises(ConfigError, match="a sum of the others"):
        po.fit_composition({"a": count_a, "twice": twice}, rows)
    with pytest.raises(ConfigError, match="there is no feature"):
        po.fit_composition({}, rows)
    with pytest.raises(ConfigError, match="cannot be called"):
        po.fit_composition({"a": 3}, rows)
    with pytest.raises(EvidenceError, match="it returned nan"):
        po.fit_composition({"a": wrong}, rows)
    with pytest.raises(ConfigError, match=r"label_noise=0\.5"):
        po.fit_composition(FEATURES, rows, label_noise=0.5)
