"""One model in the hands of several: threads, policies that come and go, several wrappers."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from helpers import ORACLE, PROMPTS, generator, tiny_lm, tiny_model, word_tokenizer

import posteriori as po
from posteriori.core.settings.training import LoraSettings

MODEL = ORACLE / "case_1" / "model"


def in_threads(*works):
    found = [None] * len(works)

    def run(at):
        try:
            found[at] = works[at]()
        except Exception as error:
            found[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


def fitted(prior, seed):
    target = po.Target(prior, po.Reward(length, beta=0.5), list(PROMPTS), 4)
    settings = {"steps": 6, "num_samples": 4, "learning_rate": 0.01, "seed": seed}
    return po.fit(target, "rloo", policy="lora", lora={"rank": 2}, **settings).policy


@pytest.mark.moves_rng
def test_two_lora_fits_of_one_prior_in_threads_are_those_made_alone():
    alone = [fitted(tiny_lm("llama"), seed).trained_state() for seed in (0, 1)]
    prior = tiny_lm("llama")
    both = in_threads(lambda: fitted(prior, 0), lambda: fitted(prior, 1))
    for want, policy in zip(alone, both, strict=True):
        got = policy.trained_state()
        assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.moves_rng
def test_models_can_be_loaded_in_threads():
    for each in in_threads(*[lambda: po.load(MODEL)] * 4):
        assert isinstance(each, po.CausalLM), each
    assert isinstance(po.load(MODEL), po.CausalLM)


def test_a_policy_and_its_prior_are_scored_in_two_threads():
    prior = tiny_lm("llama")
    policy = prior.as_policy("lora", LoraSettings(rank=2), 0)
    with torch.no_grad():
        for tensor in policy.trained_state().values():
            tensor.fill_(0.3)
        batch = prior.completions(["a b"] * 20, [[1 + at % 5, 0] for at in range(20)], 4)
        want = [prior.log_prob(batch), policy.log_prob(batch)]

    def many(lm):
        with torch.no_grad():
            return torch.stack([lm.log_prob(batch) for _ in range(15)])

    got = in_threads(lambda: many(prior), lambda: many(policy))
    for each, log_p in zip(got, want, strict=True):
        assert torch.equal(each, log_p.expand_as(each))


@pytest.mark.moves_rng
def test_adapters_of_policies_that_nobody_holds_go_with_them():
    prior = tiny_lm("llama")
    kept = prior.as_policy("lora", LoraSettings(rank=2), 0)
    others = [prior.as_policy("lora", LoraSettings(rank=2), seed) for seed in range(1, 6)]
    adapters = [weakref.ref(tensor) for o in others for tensor in o.module.parameters()]
    del others
    gc.collect()
    assert adapters
    assert all(adapter() is None for adapter in adapters)
    batch = prior.completions(["a b"], [[1, 2, 0]], 3)
    assert torch.equal(kept.log_prob(batch), prior.log_prob(batch))


def test_scoring_the_prior_between_forward_and_backward_takes_no_gradient():
    prior = tiny_lm("llama")
    policy = prior.as_policy("lora", LoraSettings(rank=2), 0)
    batch = prior.completions(["a b"], [[1, 2, 0]], 3)
    loss = policy.log_prob(batch).sum()
    prior.log_prob(batch)
    other = prior.as_policy("lora", LoraSettings(rank=2), 1)
    other.log_prob(batch)
    loss.backward()
    norms = {n: p.grad for n, p in policy.module.named_parameters() if "lora_B" in n}
    assert norms
    assert all(grad is not None and float(grad.norm()) > 0 for grad in norms.values())
    assert not {id(p) for p in policy.module.parameters()} & {
        id(p) for p in other.module.parameters()
    }


def test_another_wrapper_of_the_same_model_goes_on_without_the_adapter():
    model = tiny_model("gpt2").requires_grad_(False)
    one, other = (po.CausalLM(model, word_tokenizer()) for _ in range(2))
    batch = one.completions(["a b", "c"], [[1, 2, 0], [3, 0]], 3)
    before = other.log_prob(batch)
    policy = one.as_policy("lora", LoraSettings(rank=2), 0)
    with torch.no_grad():
        for tensor in policy.trained_state().values():
            tensor.fill_(0.3)
    assert not torch.allclose(policy.log_prob(batch), before)
    torch.testing.assert_close(other.log_prob(batch), before, rtol=0, atol=1e-6)
    full = other.as_policy("full", LoraSettings(), 0)
    torch.testing.assert_close(full.log_prob(batch), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gpt2_draws_and_is_trained_in_every_precision(dtype, kind):
    prior = po.load(MODEL, dtype=dtype)
    policy = prior.as_policy(kind, LoraSettings(rank=2), 0)
    drawn = policy.sample(["a b"], 4, 3, generator())
    loss = policy.log_prob(drawn).sum()
    gradients = torch.autograd.grad(loss, list(policy.module.parameters()), allow_unused=True)
    norms = [g.norm() for g in gradients if g is not None]
    assert norms
    assert all(bool(norm.isfinite()) for norm in norms)
