"""What a critic reads: the hidden states of each prefix, whatever is in the batch."""

from __future__ import annotations

import pytest
import torch
from helpers import ARCHITECTURES, PROMPTS, WORDS, tiny_lm

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ModelError


def some_completions(lm) -> po.Completions:
    return lm.completions(list(PROMPTS), [[1, 2, 0], [3], [4, 5, 1, 2]], 4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_features_are_what_the_output_head_reads(architecture):
    """The last hidden state of a plain pass over the unpadded sequence."""
    lm = tiny_lm(architecture)
    completions = some_completions(lm)
    features_NLD = lm.features(completions)
    assert features_NLD.dtype == torch.float32
    assert not features_NLD.requires_grad
    for row, ids in enumerate(completions.completion_ids):
        prompt = completions.prompt_ids[int(completions.prompt_index_N[row])]
        with torch.no_grad():
            out = lm.model(
                torch.tensor([[*prompt, *ids]]),
                attention_mask=torch.ones(1, len(prompt) + len(ids), dtype=torch.long),
                output_hidden_states=True,
            )
        wanted_LD = out.hidden_states[-1][0, len(prompt) - 1 : -1]
        torch.testing.assert_close(features_NLD[row, : len(ids)], wanted_LD, rtol=0, atol=1e-5)
        assert float(features_NLD[row, len(ids) :].abs().sum()) == 0


def test_batches_and_their_order_change_nothing():
    lm, small = tiny_lm(), tiny_lm(memory_gib=1e-6)
    completions = some_completions(lm)
    together = lm.features(completions)
    assert len(small.micro_batches(completions)) > 1
    torch.testing.assert_close(small.features(completions), together, rtol=0, atol=1e-5)
    turned = lm.features(completions.select([2, 0, 1]))
    torch.testing.assert_close(turned, together[[2, 0, 1]], rtol=0, atol=1e-5)


def test_a_policys_adapter_is_off_for_the_prior():
    prior = tiny_lm()
    completions = some_completions(prior)
    before = prior.features(completions)
    policy = prior.as_policy("lora", LoraSettings(), seed=0)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    torch.testing.assert_close(prior.features(completions), before, rtol=0, atol=1e-5)
    assert float((policy.features(completions) - before).abs().max()) > 1e-3


def test_nothing_is_left_hanging_on_the_model():
    lm = tiny_lm()
    before = lm.token_log_prob(some_completions(lm))
    lm.features(some_completions(lm))
    assert not lm.model.get_output_embeddings()._forward_pre_hooks
    assert torch.equal(lm.token_log_prob(some_completions(lm)), before)


def test_a_model_without_an_output_head_says_so(monkeypatch):
    lm = tiny_lm("gpt_neox")
    completions = some_completions(lm)
    monkeypatch.setattr(lm.model, "get_output_embeddings", lambda: None)
    with pytest.raises(ModelError, match="output head"):
        lm.features(completions)


def test_a_tables_features_say_which_row_it_is():
    table = po.TabularLM.random(WORDS[:4], 3, ("x", "y"), seed=1)
    completions = table.completions(["x", "y", "y"], [[1, 2, 0], [3, 0], [0]], 3)
    features_NLD = table.features(completions)
    log_prob_NLV = features_NLD @ table.logits.flatten(0, 1).log_softmax(-1)
    chosen_NL = log_prob_NLV.gather(-1, completions.tokens_NL[..., None])[..., 0]
    chosen_NL = chosen_NL * completions.mask_NL
    torch.testing.assert_close(chosen_NL, table.token_log_prob(completions))
    assert torch.equal(features_NLD.sum(-1), completions.mask_NL.double())
