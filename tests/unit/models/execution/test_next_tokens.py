"""What a model says of every next token agrees with what it says of the drawn one."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_lm

import posteriori as po
from posteriori.core.seeds import generator

PROMPTS = ["a", "c d", "e"]


@pytest.fixture(params=["model", "table", "prompted", "warped"])
def lm(request, table):
    return {
        "model": tiny_lm,
        "table": lambda: table,
        "prompted": lambda: po.Prompted(tiny_lm(), "b "),
        "warped": lambda: tiny_lm().warped(temperature=0.7, top_k=3),
    }[request.param]()


def drawn(lm):
    prompts = getattr(lm, "prompts", PROMPTS)
    return lm.sample(prompts, 20, 3, generator(0, "next tokens"))


def test_the_first_choice_is_the_drawn_token(lm):
    completions = drawn(lm)
    view = lm.next_tokens(completions, 2)
    scored_NL, mask_NL = lm.token_log_prob(completions).detach(), completions.mask_NL
    width = view.token_NLK.shape[1]
    assert torch.equal(view.token_NLK[..., 0][mask_NL], completions.tokens_NL[mask_NL])
    found_NL = view.log_prob_NLK[..., 0]
    assert torch.allclose(found_NL[mask_NL], scored_NL[:, :width][mask_NL], atol=1e-5)
    assert view.hidden_NLD.shape[:2] == view.token_NLK.shape[:2]


def test_every_token_counts_once(lm):
    completions = drawn(lm)
    view = lm.next_tokens(completions, lm.vocab_size + 5)
    total_NL = view.log_prob_NLK.logsumexp(-1)[completions.mask_NL]
    assert torch.allclose(total_NL, torch.zeros_like(total_NL), atol=1e-5)
    few_NL = lm.next_tokens(completions, 1).log_prob_NLK.exp().sum(-1)[completions.mask_NL]
    assert bool((few_NL <= 1 + 1e-5).all())


def test_choices_are_scored_with_the_gradient_of_the_drawn_token(table):
    for policy in (
        tiny_lm().as_policy("full", None, 0),
        table.as_policy("full", None, 0),
    ):
        completions = drawn(policy) if policy.__class__.__name__ == "CausalLM" else drawn(table)
        choice_NLK = policy.next_tokens(completions, 2).token_NLK
        chosen = policy.choice_log_prob(completions, choice_NLK)
        assert chosen.shape == choice_NLK.shape
        mask_NL = completions.mask_NL[:, : choice_NLK.shape[1]]
        parameters = [p for p in policy.module.parameters() if p.requires_grad]
        mine = torch.autograd.grad(chosen[..., 0][mask_NL].sum(), parameters)
        scored = policy.token_log_prob(completions).sum()
        theirs = torch.autograd.grad(scored, parameters)
        for one, other in zip(mine, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
