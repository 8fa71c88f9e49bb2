"""A hundred operations on one model by eight threads: each gives what it gives alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import ORACLE, PROMPTS, generator, tiny_model, word_tokenizer

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.models.weights import accumulators

pytestmark = pytest.mark.long

MODEL = ORACLE / "case_1" / "model"


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


def operations(prior, policy, batch, target):
    """Ten kinds of work on one model: each a function of a seed."""

    def fit(seed):
        settings = {"steps": 3, "num_samples": 4, "learning_rate": 0.01, "seed": seed}
        fitted = po.fit(target, "rloo", policy="lora", lora={"rank": 2}, **settings)
        return torch.cat([each.flatten() for each in fitted.policy.trained_state().values()])

    def load(_seed):
        with torch.no_grad():
            return po.load(MODEL).log_prob(batch)

    def gradient(_seed):
        loss = policy.log_prob(batch).sum()
        parameters = list(policy.module.parameters())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    def score(lm):
        def scored(_seed):
            with torch.no_grad():
                return lm.log_prob(batch)

        return scored

    def draw(lm):
        return lambda seed: lm.sample(PROMPTS, 5, 4, generator(seed)).log_prob_N

    return {
        "fit LoRA": fit,
        "load": load,
        "gradient of the policy": gradient,
        "score the prior": score(prior),
        "score the policy": score(policy),
        "draw from the prior": draw(prior),
        "draw from the policy": draw(policy),
        "importance": lambda seed: po.sample(target, "importance", 20, seed=seed).log_weight,
        "smc": lambda seed: po.sample(target, "smc", 20, seed=seed).log_weight,
        "features": lambda _seed: prior.features(batch),
    }


@pytest.mark.moves_rng
def test_a_hundred_operations_in_eight_threads_are_those_made_alone():
    prior = po.load(MODEL)
    target = po.Target(prior, po.Reward(length, beta=0.5), list(PROMPTS), 4)
    settings = {"steps": 2, "num_samples": 4, "learning_rate": 0.1}
    policy = po.fit(target, "rloo", policy="lora", lora={"rank": 2}, **settings).policy
    names = [name for name, _ in prior.model.named_parameters()]
    ids = [[1 + at % 5, 0] for at in range(20)]
    batch = prior.completions(["a b"] * 20, ids, 4)
    works = operations(prior, policy, batch, target)
    jobs = [(name, seed) for seed in range(10) for name in works]
    alone = [works[name](seed) for name, seed in jobs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda job: works[job[0]](job[1]), jobs))
    assert len(jobs) == 100
    wrong = [
        job
        for job, want, got in zip(jobs, alone, together, strict=True)
        if want.shape != got.shape or not torch.allclose(want, got, rtol=0, atol=1e-6)
    ]
    assert not wrong
    assert [name for name, _ in prior.model.named_parameters()] == names


FOUR_HUNDRED = 400


@pytest.mark.moves_rng
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_four_hundred_calls_of_one_model_in_eight_threads(architecture):
    """GPT-NeoX runs by transformers' own code, Llama as a known decoder."""
    model = tiny_model(architecture)
    prior = po.CausalLM(model, word_tokenizer())
    policy = prior.as_policy("lora", LoraSettings(rank=2), 0)
    with torch.no_grad():
        for at, tensor in enumerate(policy.trained_state().values()):
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator(at)))
    batch = prior.completions(["a b"] * 20, [[1 + at % 5, 0] for at in range(20)], 4)

    def slope(lm, parameters):
        gradients = torch.autograd.grad(lm.log_prob(batch).sum(), parameters)
        return torch.cat([g.flatten() for g in gradients])

    def steps(lm, seed):
        with lm.stepping(["a b", "c"], torch.tensor([0, 0, 1]), 3, hidden=True) as rows:
            rows.extend(torch.tensor([1, 2, 1 + seed % 3]))
            return torch.cat([rows.logits_RV, rows.hidden_RD], dim=1)

    kinds = [
        lambda lm, seed: lm.log_prob(batch).detach(),
        lambda lm, seed: lm.sample(list(PROMPTS), 5, 4, generator(seed)).log_prob_N,
        lambda lm, seed: lm.features(batch),
        lambda lm, seed: slope(policy, list(policy.module.parameters())),
        lambda lm, seed: slope(prior, list(model.parameters())),
        steps,
        lambda lm, seed: model(torch.tensor([[1, 2, 3]])).logits.detach(),
        lambda lm, seed: torch.cat(
            [
                t.flatten()
                for t in prior.as_policy("lora", LoraSettings(rank=2), seed)
                .trained_state()
                .values()
            ]
        ),
    ]
    jobs = [(kinds[at % len(kinds)], (prior, policy)[at % 3 == 0], at % 7) for at in range(56)]
    alone = [kind(lm, seed) for kind, lm, seed in jobs]
    with ThreadPoolExecutor(8) as threads:
        together = list(
            threads.map(lambda at: jobs[at % 56][0](*jobs[at % 56][1:]), range(FOUR_HUNDRED))
        )
    wrong = [
        at
        for at, got in enumerate(together)
        if not torch.allclose(got, alone[at % 56], rtol=0, atol=1e-5)
    ]
    assert len(together) == FOUR_HUNDRED
    assert not wrong


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_where_gradients_add_up_is_made_before_threads_need_it(kind):
    """torch makes it under two locks, in an order that a custom function reverses."""
    policy = po.load(MODEL).as_policy(kind, LoraSettings(rank=2), seed=0)
    kept = accumulators._KEPT[policy.model]
    trained = [each for each in policy.model.parameters() if each.requires_grad]
    assert len(trained) == len(kept) > 0
    for parameter, view in zip(trained, kept, strict=True):
        assert view.grad_fn is not None
        assert view.data_ptr() == parameter.data_ptr()
