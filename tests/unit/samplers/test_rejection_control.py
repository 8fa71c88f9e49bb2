"""`rejection` whose next tokens are checked: properly weighted by enumeration, never starved where
a grammar knows, and exact as before where that can be paid."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import has_c
from test_lookahead import GRAMMARS, plan, rare

import posteriori as po
from posteriori.errors import ConfigError, SamplingStopped
from posteriori.samplers.base import Job
from posteriori.samplers.independent import acceptance_stream, rejection_control
from posteriori.samplers.independent.acceptance_stream import accepted_draws
from posteriori.samplers.independent.rejection_control import excess, log_accept, log_z_hat
from posteriori.samplers.smc.populations import Plan, Populations
from posteriori.testing.walk import Walk

pytestmark = pytest.mark.long

THRESHOLDS = (-4.0, -1.5, 0.0, 2.0)


def off_target(plan: Plan, log_c: float, accept=log_accept, left=excess) -> float:
    """max_y |sum over all paths of q(path) P(accept) weight 1(y) - p~(y)|, for the last prompt."""
    exact, prompts = po.exact(plan.target), plan.target.prompts[-1:]
    outcomes = {tuple(y): at for at, y in enumerate(exact.outcomes[-1].completion_ids)}
    mean = torch.zeros(len(outcomes), dtype=torch.float64)
    one, log_c_N = torch.ones(1, dtype=torch.long), torch.tensor([log_c], dtype=torch.float64)
    for walk in Walk():
        draws = Populations(plan, prompts, one - 1, one, walk).run()
        weight = accept(draws, log_c_N) + left(draws, log_c_N).log_weight + log_c_N
        mean[outcomes[tuple(draws.completion_ids[0])]] += walk.probability * float(weight.exp())
    wanted = (exact.log_prior[-1] + exact.log_evidence[-1]).exp()
    return float((mean - wanted).abs().max())


@pytest.mark.parametrize("log_c", THRESHOLDS)
@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
@pytest.mark.parametrize("most", [1, 3])
def test_it_is_properly_weighted_by_every_threshold(most, grammar, log_c):
    assert off_target(plan(most, grammar, threshold=0.0), log_c) < 1e-8


def without_weights(draws, log_c_N):
    return acceptance_stream.equal(draws)


def of_all_weights(draws, log_c_N):
    return draws


def twice_the_threshold(draws, log_c_N):
    return log_accept(draws, log_c_N + math.log(2.0))


@pytest.mark.parametrize(
    "mutant", [{"left": without_weights}, {"left": of_all_weights}, {"accept": twice_the_threshold}]
)
def test_wrong_variants_are_found(mutant):
    assert off_target(plan(1, threshold=0.0), -1.5, **mutant) > 1e-3


def test_z_and_means_are_unbiased_whatever_the_trials(table, monkeypatch):
    """Every way in which five trials can fall: rejected, of weight 1, of weight 3."""
    monkeypatch.setattr(acceptance_stream, "_LEAST", 1)
    wanted, budget, log_c = 2, 5, math.log(0.7)
    probability, weights = (0.5, 0.3, 0.2), (0.0, 1.0, 3.0)
    target = po.Target(table, [], table.prompts[:1], 3)
    pool = po.sample(target, num_samples=1)
    log_c_N = torch.tensor(log_c, dtype=torch.float64)
    z = heavy = 0.0
    for falls in itertools.product(range(3), repeat=budget):
        job = Job(target, table, wanted, seed=0)

        def source(size, tried, prompts, falls=falls):
            some = pool.select([0] * size)
            v_N = torch.tensor([weights[fall] for fall in falls[tried : tried + size]])
            return rejection_control.replace(some, log_weight_N=v_N.double().log() + log_c)

        accepted = accepted_draws(
            job,
            "trials",
            lambda draws: log_accept(draws, log_c_N),
            budget,
            source,
            lambda draws: excess(draws, log_c_N),
        )
        log_scale_P, each = log_z_hat(accepted, log_c_N[None])
        chance = math.prod(probability[fall] for fall in falls)
        z += chance * math.exp(each[0].value)
        if len(accepted.draws):
            w_N = (accepted.draws.log_weight + log_scale_P[0]).exp()
            assert float(w_N.mean()) == pytest.approx(math.exp(each[0].value))
            heavy += chance * float(w_N[accepted.draws.log_weight > 0].sum()) / len(w_N)
    assert z == pytest.approx(0.7 * (0.3 * 1.0 + 0.2 * 3.0), abs=1e-12)
    assert heavy == pytest.approx(0.7 * 0.2 * 3.0, abs=1e-12)


def test_it_does_not_starve_where_a_grammar_knows():
    """Without lookahead no draw of the budget is a telephone number."""
    target = rare()
    assert len(po.sample(target, "rejection", 8, max_draws=64, lookahead=0)) == 0
    draws = po.sample(target, "rejection", 12, seed=1)
    assert len(draws) == 24
    assert all(len(text) == 8 and text[3] == "-" for text in draws.texts)
    assert draws.guarantee == "properly_weighted"
    assert "next_tokens_checked" in {each.name for each in draws.findings}
    smc = po.sample(target, "smc", 128, seed=2)
    for mine, other in zip(draws.log_z.per_prompt, smc.log_z.per_prompt, strict=True):
        # Both are rough: of what is so rare the weights are uneven, and their errors say so.
        assert abs(mine.value - other.value) < 3.0
    again = po.sample(target, "rejection", 12, seed=1)
    assert again.completion_ids == draws.completion_ids
    assert again.log_z == draws.log_z


def test_what_can_be_paid_stays_exact():
    target = po.Target(po.load("tiny"), po.constraints.regex("[^x]*"), ["You are"], 6)
    draws = po.sample(target, "rejection", 16, seed=3)
    assert draws.guarantee == "exact"
    assert not bool(draws.log_weight.any())
    alone = po.sample(target, "rejection", 16, seed=3, lookahead=0)
    assert alone.completion_ids == draws.completion_ids
    assert alone.log_z == draws.log_z


def test_draws_that_were_finished_are_not_called_exact(monkeypatch):
    made = rejection_control.looked_ahead
    calls = []

    def failing(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made(*given)

    monkeypatch.setattr(rejection_control, "looked_ahead", failing)
    with pytest.raises(SamplingStopped) as caught:
        po.sample(rare(), "rejection", 24)
    assert caught.value.draws.guarantee == "properly_weighted"
    assert len(caught.value.draws) > 0


def test_lookahead_that_cannot_be_is_refused(table):
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    with pytest.raises(ConfigError, match="no constraint of the target can judge a prefix"):
        po.sample(target, "rejection", 4, lookahead=8)
    other = po.TabularLM.random(("<eos>", "a", "b", "c"), 3, table.prompts, seed=2)
    with pytest.raises(ConfigError, match="another proposal is given"):
        po.sample(target, "rejection", 4, other, lookahead=8, max_log_weight=3.0)


@pytest.mark.parametrize("sampler", ["smc", "rejection"])
def test_the_prior_itself_knows_no_constraint(sampler):
    """0^0 = 1: at temper 0 what a constraint rules out has its prior probability."""
    free = rare().tempered(0.0)
    draws = po.sample(free, sampler, 8, seed=0)
    assert all(each.value == pytest.approx(0.0, abs=0.2) for each in draws.log_z.per_prompt)
