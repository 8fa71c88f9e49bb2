"""`CausalLM` is right for any transformers model: drawn, re-scored and plain log-probs agree.

The reference is one plain forward pass an outcome: unpadded, uncached, alone in its batch.
"""

from __future__ import annotations

import pytest
import torch
from helpers import ARCHITECTURES, PROMPTS, generator, outcome_ids, plain_log_probs, tiny_lm

import posteriori as po
from posteriori.errors import ModelError

AGREE = 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestEvery:
    def test_drawn_and_rescored_and_plain_log_probs_agree(self, architecture):
        lm = tiny_lm(architecture)
        drawn = lm.sample(PROMPTS, 30, 8, generator())
        assert len(set(drawn.lengths_N.tolist())) > 2, "rows end at different steps"
        rescored = lm.log_prob(drawn)
        torch.testing.assert_close(drawn.log_prob_N, rescored, rtol=0, atol=AGREE)
        plain = plain_log_probs(lm.model, drawn)
        torch.testing.assert_close(rescored, plain, rtol=0, atol=AGREE)

    def test_probabilities_of_all_outcomes_sum_to_one(self, architecture):
        lm = tiny_lm(architecture)
        outcomes = outcome_ids(6, 3)
        prompts = [prompt for prompt in PROMPTS for _ in outcomes]
        log_prob = lm.log_prob(lm.completions(prompts, outcomes * 3, 3)).view(3, -1)
        torch.testing.assert_close(
            log_prob.exp().sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6
        )

    def test_gradients_are_those_of_the_plain_pass(self, architecture):
        lm = tiny_lm(architecture)
        lm.model.requires_grad_(True)
        ids, prompt = [1, 4, 2, 0], "d e a c"
        loss = lm.log_prob(lm.completions([prompt, "a"], [ids, [2, 0]], 4)).sum()
        mine = torch.autograd.grad(loss, list(lm.model.parameters()), allow_unused=True)
        plain = sum(
            lm.model(torch.tensor([p + y]), use_cache=False)
            .logits[0, len(p) - 1 : -1]
            .log_softmax(-1)
            .gather(-1, torch.tensor(y)[:, None])
            .sum()
            for p, y in ((list(lm.encode(prompt)), ids), (list(lm.encode("a")), [2, 0]))
        )
        expected = torch.autograd.grad(plain, list(lm.model.parameters()), allow_unused=True)
        for a, b in zip(mine, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

    def test_a_lora_policy_starts_as_the_prior(self, architecture):
        lm = tiny_lm(architecture)
        drawn = lm.sample(PROMPTS, 4, 4, generator())
        before = lm.log_prob(drawn)
        target = po.Target(lm, po.Reward(length, beta=1.0), list(PROMPTS), 4)
        fitted = po.fit(target, "rloo", steps=1, num_samples=4, learning_rate=0.1, policy="lora")
        assert torch.equal(lm.log_prob(drawn), before)
        assert not torch.equal(fitted.policy.log_prob(drawn), before)

    def test_in_float64_or_as_it_is_prompts_of_different_lengths_have_log_probs(self, architecture):
        lm = tiny_lm(architecture)
        wide = lm.in_float64()
        batch = wide.completions(PROMPTS, [[1, 2, 0], [3, 0], [4, 1, 2]], 3)
        if architecture == "bloom":
            assert wide is lm
            with pytest.raises(ModelError, match="BloomForCausalLM in float64 gives NaN"):
                po.CausalLM(lm.model.double(), lm.tokenizer)
            return
        plain = plain_log_probs(wide.model, batch)
        torch.testing.assert_close(wide.log_prob(batch), plain, rtol=0, atol=AGREE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bloom_alone_gives_nan_in_float64_where_it_is_padded(dtype):
    """If this fails, transformers has mended it, and Bloom need not be refused."""
    model = tiny_lm("bloom").model.to(dtype)
    ids, mask = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 1]])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[0, -1]
    assert bool(logits.isnan().all()) == (dtype == torch.float64)


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]
