"""Confidence sequences hold at every look together: 1,000 runs, each looking again and again.

A sequence that is right misses in at most 5% of runs; 1,000 runs of one that misses in 5% show more
than 86 misses once in 10^6 (binomial). Intervals for a single look miss far more often, which is
the mutant that the same count has to catch.
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers import generator
from scipy.stats import binom
from tables import posterior_table

import posteriori as po
from posteriori.diagnostics.evaluate.sequences import asymptotic_factor, bounded_sequence

RUNS = 1000
MOST = int(binom.isf(1e-6, RUNS, 0.05))
WORDS = ["<eos>", "a", "b"]


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.9])
def test_the_bounded_sequence_holds_at_every_one_of_2000_looks(mean):
    """Coins, the least favourable law; every draw is a look."""
    x_RN = (torch.rand(RUNS, 2000, generator=generator(1)) < mean).double()
    low, high = bounded_sequence(x_RN, 0.05)
    missed = ((low > mean) | (high < mean)).any(1)
    assert int(missed.sum()) <= MOST
    assert float((high - low)[:, -1].mean()) < 0.2
    # The mutant: the interval of one look, taken at every look.
    count = torch.arange(1, 2001)
    seen = x_RN.cumsum(1) / count
    half = 1.96 * (seen * (1 - seen) / count).sqrt()
    assert int(((seen - mean).abs() > half)[:, 100:].any(1).sum()) > 2 * MOST


def test_the_asymptotic_sequence_holds_at_every_look_of_skewed_means():
    """Exponential draws (skewness 2) from 200 draws on to 20,000, at every 1% more of them."""
    looks = sorted({math.ceil(200 * 1.01**k) for k in range(460)})
    count = torch.tensor(looks, dtype=torch.float64)
    bad, plain = 0, 0
    for part in range(10):
        x = torch.empty(RUNS // 10, 20_000, dtype=torch.float64)
        x.exponential_(generator=generator(part))
        mean = x.cumsum(1)[:, [n - 1 for n in looks]] / count
        square = x.square().cumsum(1)[:, [n - 1 for n in looks]] / count
        error = ((square - mean.square()).clamp(min=0) / count).sqrt()
        factor = torch.tensor([asymptotic_factor(n, 200, 0.05) for n in looks])
        bad += int(((mean - 1).abs() > factor * error).any(1).sum())
        plain += int(((mean - 1).abs() > 1.96 * error).any(1).sum())
    assert bad <= MOST
    assert plain > 2 * MOST


def world() -> tuple[po.Target, po.TabularLM]:
    prior = po.TabularLM.random(WORDS, 3, ["x"], seed=5)

    def reward(completions, **_):
        return [float(text.count("a")) for text in completions]

    target = po.Target(prior, po.Reward(reward, beta=0.7, max_reward=3.0), ["x"], 3)
    return target, posterior_table(target, 0.5)


def test_kl_to_the_target_holds_at_every_look_on_a_table():
    """log of the mean weight less the mean log-ratio, from 400 draws each of policy and prior on
    to 10,000, at every 2% more of them, against the enumerated truth."""
    target, policy = world()
    exact = po.exact(target)
    log_pi, log_prior = exact.log_prob(policy)[0], exact.log_prior[0]
    log_target = log_prior + exact.log_evidence[0]
    weight = (log_target - torch.logaddexp(log_pi, log_prior) + math.log(2)).exp()
    ratio = log_target - log_pi
    truth = float(exact.evaluate(policy)["kl_to_target"][0])
    looks = sorted({math.ceil(400 * 1.02**k) for k in range(162)})
    count = torch.tensor(looks, dtype=torch.float64)
    at = [n - 1 for n in looks]
    factor = torch.tensor([asymptotic_factor(n, 400, 0.05) for n in looks])
    bad, plain, size = 0, 0, (RUNS // 10, looks[-1])
    for part in range(10):
        stream = generator(part)
        mine = torch.multinomial(log_pi.exp().expand(size[0], -1), size[1], True, generator=stream)
        his = torch.multinomial(
            log_prior.exp().expand(size[0], -1), size[1], True, generator=stream
        )
        w, r = (weight[mine] + weight[his]) / 2, ratio[mine]
        z, elbo = w.cumsum(1)[:, at] / count, r.cumsum(1)[:, at] / count
        squares = [each.cumsum(1)[:, at] / count for each in (w.square(), r.square(), w * r)]
        variance = (
            (squares[0] - z.square()) / z.square()
            + (squares[1] - elbo.square())
            - 2 * (squares[2] - z * elbo) / z
        )
        off, error = (z.log() - elbo - truth).abs(), (variance.clamp(min=0) / count).sqrt()
        bad += int((off > factor * error).any(1).sum())
        plain += int((off > 1.96 * error).any(1).sum())
    assert bad <= MOST
    assert plain > 2 * MOST


@pytest.mark.long
@pytest.mark.parametrize("wanted", ["kl_to_target", "log_z"])
def test_evaluate_holds_at_every_look_of_100_runs(wanted, monkeypatch):
    """A hundred prompts of one table are a hundred runs of `evaluate`: each one's interval at five
    looks of 200 to 1,013 draws against the enumerated truth. At most 18 may miss: once in 10^6."""
    from posteriori.diagnostics.evaluate import evaluate as module
    from posteriori.diagnostics.evaluate.until import look

    small, policy = world()
    prompts = [f"run {n}" for n in range(100)]

    def repeated(lm: po.TabularLM) -> po.TabularLM:
        (table,) = lm.state_dict().values()
        return po.TabularLM(table.expand(100, -1, -1).clone(), prompts, WORDS)

    truth = float(po.exact(small).evaluate(policy)[wanted][0])
    target = po.Target(repeated(small.prior), small.evidence, prompts, 3)
    missed = torch.zeros(100, dtype=torch.bool)
    looks = []

    def watch(given, figures, of, mixtures, draws, confidence):
        looks.append(draws[-1])
        for at, each in enumerate(figures[wanted].per_prompt):
            alone = look(given, {wanted: each}, of, [mixtures[at]], draws, confidence)[wanted]
            missed[at] |= not alone.low <= truth <= alone.high
            assert alone.basis == ("bounded" if wanted == "log_z" else "asymptotic")
        return look(given, figures, of, mixtures, draws, confidence)

    monkeypatch.setattr(module, "look", watch)
    until, most = {wanted: 1e-9}, 1013
    po.evaluate(target, repeated(policy), 200, 0, until=until, max_samples=most, max_prompts=None)
    assert looks == [200, 300, 450, 675, 1013]
    assert int(missed.sum()) <= int(binom.isf(1e-6, 100, 0.05))
