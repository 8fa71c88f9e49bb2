"""Sub-trajectory balance: its definition, zero at the target alone, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import posteriori as po
from posteriori.core.draw import draw
from posteriori.errors import ObjectiveError
from posteriori.objectives.balance.subtb import SubTB

PROMPTS = ("x", "y")
WORDS = ("", "a", "b")
DEPTH = 3
EXACT = 1e-10


def value(completions: list[str], **_: object) -> list[float]:
    return [text.count("a") - 0.5 * text.count("b") for text in completions]


def world(seed: int = 1, prompts: tuple[str, ...] = PROMPTS) -> po.Target:
    prior = po.TabularLM.random(WORDS, DEPTH, prompts, seed=seed)
    return po.Target(prior, po.Reward(value, beta=0.7), prompts, DEPTH)


def drawn(objective: SubTB, target: po.Target, num: int = 60) -> po.Draws:
    other = po.TabularLM.random(WORDS, DEPTH, PROMPTS, seed=9)
    objective.prepare(target, lambda: other, 0)
    return objective.draw(target, other, target.prompts, num, torch.Generator().manual_seed(2))


def losses(objective: SubTB, draws: po.Draws, policy: po.TabularLM) -> Tensor:
    constants = objective.weigh(draws, torch.full_like(draws.log_prior_N, torch.nan))
    read = policy.choice_log_prob(draws.completions, constants["choice_NLK"])
    return objective.loss(read, constants)


def log_ratios(target: po.Target, policy: po.TabularLM) -> list[dict[tuple[int, ...], float]]:
    """rho of every outcome, prompt by prompt, from the enumeration."""
    exact = po.exact(target)
    found = []
    for at, outcomes in enumerate(exact.outcomes):
        rho = exact.log_prior[at] + exact.log_evidence[at] - exact.log_prob(policy)[at]
        keys = (tuple(ids) for ids in outcomes.completion_ids)
        found.append(dict(zip(keys, rho.tolist(), strict=True)))
    return found


def by_definition(
    draws: po.Draws, rho: list[dict[tuple[int, ...], float]], decay: float
) -> list[float]:
    eos = 0
    found = []
    prompt_N = draws.completions.prompt_index_N.tolist()
    for prompt, ids in zip(prompt_N, draws.completion_ids, strict=True):
        stem = [token for token in ids if token != eos]
        path: list[tuple[int, ...]] = [(*stem[:t], eos) for t in range(len(stem) + 1)]
        if ids[-1] != eos:
            path[-1] = tuple(ids)
        values = [rho[prompt][each] for each in path]
        pairs = [(i, j) for j in range(len(values)) for i in range(j)]
        weights = [decay ** (j - i) for i, j in pairs]
        squares = [(values[i] - values[j]) ** 2 for i, j in pairs]
        total = sum(w * s for w, s in zip(weights, squares, strict=True))
        found.append(total / (2 * sum(weights)) if pairs else 0.0)
    return found


@pytest.mark.parametrize("decay", [1.0, 0.6])
def test_the_loss_is_its_definition(decay):
    target = world()
    objective = SubTB(decay=decay)
    draws = drawn(objective, target)
    assert {len(ids) for ids in draws.completion_ids} == {1, 2, 3}
    assert set(draws.completions.ended_N.tolist()) == {True, False}
    policy = po.TabularLM.random(WORDS, DEPTH, PROMPTS, seed=4)
    rho = log_ratios(target, policy)
    expected = torch.tensor(by_definition(draws, rho, decay), dtype=torch.float64)
    torch.testing.assert_close(losses(objective, draws, policy), expected, rtol=0, atol=EXACT)
    other = torch.tensor(by_definition(draws, rho, 0.9 * decay), dtype=torch.float64)
    assert float((losses(objective, draws, policy) - other).abs().max()) > 1e4 * EXACT


def posterior_table(target: po.Target) -> po.TabularLM:
    """p* as a table: its next-token distributions, from the enumeration."""
    exact = po.exact(target)
    assert isinstance(target.prior, po.TabularLM)
    logits = torch.full_like(target.prior.logits, -1e9)
    prefixes = [()]
    places = {(): 0}
    for _ in range(DEPTH - 1):
        prefixes = [(*prefix, token) for prefix in prefixes for token in range(1, len(WORDS))]
        places |= {prefix: len(places) + at for at, prefix in enumerate(prefixes)}
    for prompt, outcomes in enumerate(exact.outcomes):
        mass: dict[tuple[int, ...], float] = {}
        log_p_Y = exact.log_posterior[prompt].tolist()
        for ids, log_p in zip(outcomes.completion_ids, log_p_Y, strict=True):
            for length in range(1, len(ids) + 1):
                key = tuple(ids[:length])
                mass[key] = mass.get(key, 0.0) + math.exp(log_p)
        for prefix, place in places.items():
            for token in range(len(WORDS)):
                logits[prompt, place, token] = math.log(mass[(*prefix, token)])
    return po.TabularLM(logits, PROMPTS, WORDS)


def test_at_the_target_each_draws_loss_and_gradient_are_zero():
    target = world()
    objective = SubTB()
    draws = drawn(objective, target)
    policy = posterior_table(target).requires_grad_(True)
    assert float(po.exact(target).evaluate(policy)["kl_to_target"].max()) < 1e-12
    loss = losses(objective, draws, policy)
    assert float(loss.detach().abs().max()) < EXACT
    (gradient,) = torch.autograd.grad(loss.sum(), [policy.logits])
    assert float(gradient.abs().max()) < EXACT


@pytest.mark.parametrize("seed", range(5))
def test_elsewhere_it_is_not(seed):
    target = world(seed)
    objective = SubTB()
    draws = drawn(objective, target)
    policy = po.TabularLM.random(WORDS, DEPTH, PROMPTS, seed=20 + seed)
    policy.requires_grad_(True)
    (gradient,) = torch.autograd.grad(losses(objective, draws, policy).mean(), [policy.logits])
    assert float(gradient.abs().max()) > 1e-3


def test_the_prior_alone_has_the_evidence_along_the_path():
    """At the prior rho is log e, so the first loss is the spread of the evidence of beginnings."""
    target = world(prompts=("x",))
    objective = SubTB()
    draws = drawn(objective, target)
    assert isinstance(target.prior, po.TabularLM)
    loss = losses(objective, draws, target.prior)
    row = next(at for at, ids in enumerate(draws.completion_ids) if ids == [1, 0])
    assert float(loss[row]) == pytest.approx((1 / 0.7) ** 2 / 2, abs=EXACT)


def test_one_token_that_ends_has_no_piece():
    target = world(prompts=("x",))
    objective = SubTB()
    draws = drawn(objective, target)
    row = next(at for at, ids in enumerate(draws.completion_ids) if ids == [0])
    policy = po.TabularLM.random(WORDS, DEPTH, ("x",), seed=4).requires_grad_(True)
    loss = losses(objective, draws, policy)[row]
    (gradient,) = torch.autograd.grad(loss, [policy.logits])
    assert float(loss.detach()) == 0.0
    assert float(gradient.abs().max()) == 0.0


def test_a_beginning_that_is_ruled_out_is_an_error_that_says_where():
    """Though no whole draw is."""
    target = replace_evidence(world(prompts=("x",)), lambda text: len(text.split()) != 1)
    objective = SubTB()
    with pytest.raises(ObjectiveError, match=r"rules out .* after 1 tokens of"):
        objective.weigh(drawn(objective, target), torch.zeros(60))


def replace_evidence(target: po.Target, allowed) -> po.Target:
    constraint = po.Constraint(lambda completions, **_: [allowed(text) for text in completions])
    return po.Target(target.prior, constraint, target.prompts, DEPTH)


def test_a_prior_that_does_not_look_at_next_tokens_is_refused():
    class Plain:
        eos_token_ids = (0,)

    target = world()
    object.__setattr__(target, "prior", Plain())
    with pytest.raises(ObjectiveError, match="or another objective, such as vargrad"):
        SubTB().prepare(target, lambda: po.TabularLM.random(WORDS, DEPTH, PROMPTS), 0)


@pytest.mark.long
def test_draws_of_the_prior_and_of_earlier_steps_go_together():
    target = world()
    for settings in ({"proposal": "prior"}, {}):
        fit = po.fit(
            target,
            "subtb",
            objective_settings=settings,
            steps=400,
            num_samples=16,
            replay=4,
            learning_rate=0.05,
        )
        assert float(po.exact(target).evaluate(fit.policy)["kl_to_target"].max()) < 0.01


def test_draw_asks_about_each_prefix_once():
    asked: list[str] = []

    def counted(completions: list[str], **_: object) -> list[float]:
        asked.extend(completions)
        return value(completions)

    prior = po.TabularLM.random(WORDS, DEPTH, ("x",), seed=1)
    target = po.Target(prior, po.Reward(counted, beta=0.7), ("x",), DEPTH)
    objective = SubTB()
    objective.prepare(target, lambda: prior, 0)
    draws = draw(target, prior, 40, torch.Generator().manual_seed(0))
    asked.clear()
    objective.draw(target, prior, ("x",), 40, torch.Generator().manual_seed(0))
    distinct = {tuple(ids[:t]) for ids in draws.completion_ids for t in range(len(ids))}
    assert len(asked) <= 40 + len(distinct)
