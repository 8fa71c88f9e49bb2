"""A hundred operations on one model by eight threads: each gives what it gives alone."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import ORACLE, PROMPTS, generator

import posteriori as po
from posteriori.core.settings.training import LoraSettings

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
    del together
    gc.collect()
    last = prior.as_policy("lora", LoraSettings(rank=2), seed=0)
    # The policy's, the last one's and at most one that PEFT needs to have an adapter at all.
    assert len(prior.model.peft_config) <= 3, "unused adapters go when the next one is made"
    assert last.trained_state()
