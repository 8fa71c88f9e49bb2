"""Adapters inside a transformers model (`add_adapter`, or `AutoModelForCausalLM` of an adapter's
directory): computed with, trained from, and saved as plain weights."""

from __future__ import annotations

import pytest
import torch
from helpers import generator, tiny_lm, tiny_model, word_tokenizer
from peft import LoraConfig
from transformers import AutoModelForCausalLM

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ModelError

pytestmark = pytest.mark.moves_rng


def with_adapter_inside(architecture, **settings):
    model = tiny_model(architecture)
    names = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "gpt_neox": ["dense"]}
    config = LoraConfig(r=2, target_modules=names[architecture], **settings)
    model.add_adapter(config)
    with torch.no_grad():
        for at, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(generator=generator(at))
    return model.eval()


def batch(lm):
    return lm.completions(["a b", "c"] * 2, [[1, 2, 0], [3, 0], [4, 5, 5], [0]], 3)


def log_p(lm):
    return lm.log_prob(batch(lm)).detach()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_it_is_saved_and_trained_as_what_it_computes(architecture, tmp_path):
    model = with_adapter_inside(architecture)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lm = po.CausalLM(model, word_tokenizer())
    wanted = log_p(lm)
    assert not torch.allclose(wanted, log_p(tiny_lm(architecture)), atol=1e-2)
    lm.save_pretrained(tmp_path / "whole")
    policy = lm.as_policy("full", LoraSettings(), 0)
    policy.save_pretrained(tmp_path / "policy")
    for other in (policy, po.load(tmp_path / "whole"), po.load(tmp_path / "policy")):
        torch.testing.assert_close(log_p(other), wanted, rtol=0, atol=1e-4)
        assert not any("lora" in name for name in other.trained_state())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_other_modules_that_it_saves_and_adapters_that_are_off(tmp_path):
    model = with_adapter_inside("llama", modules_to_save=["lm_head"])
    lm = po.CausalLM(model, word_tokenizer())
    lm.save_pretrained(tmp_path / "on")
    torch.testing.assert_close(log_p(po.load(tmp_path / "on")), log_p(lm), rtol=0, atol=1e-5)
    model.disable_adapters()
    lm.save_pretrained(tmp_path / "off")
    bare = log_p(tiny_lm("llama"))
    torch.testing.assert_close(log_p(po.load(tmp_path / "off")), bare, rtol=0, atol=1e-5)


def test_a_lora_policy_needs_plain_weights():
    lm = po.CausalLM(with_adapter_inside("llama"), word_tokenizer())
    with pytest.raises(ModelError, match="needs plain weights below it"):
        lm.as_policy("lora", LoraSettings(rank=2), 0)


def test_the_directory_of_an_adapter_loaded_by_transformers(case_1, tmp_path):
    policy = case_1.prior().as_policy("lora", LoraSettings(rank=2), 0)
    with torch.no_grad():
        for at, tensor in enumerate(policy.trained_state().values()):
            tensor.normal_(generator=generator(at))
    policy.save_pretrained(tmp_path)
    lm = po.CausalLM(AutoModelForCausalLM.from_pretrained(tmp_path), policy.tokenizer)
    torch.testing.assert_close(log_p(lm), log_p(policy), rtol=0, atol=1e-5)
