"""Packed layers give the numbers of the plain ones, of the weights as they are now."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_lm
from peft import LoraConfig, get_peft_model

from posteriori.models.cpu import packing
from posteriori.models.cpu.packing import packed_linears, packing_pays
from posteriori.models.cpu.precision import with_output_head
from posteriori.models.cpu.weight_cache import WeightCache

ROUNDING = 1e-5


def hidden_and_logits(model):
    ids = torch.arange(6).view(2, 3) % 5
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi"])
def test_numbers_are_those_of_the_plain_layers(architecture):
    model = with_output_head(tiny_lm(architecture).model)
    plain = hidden_and_logits(model)
    with packed_linears(model, 2, torch.float32, WeightCache()):
        packed = hidden_and_logits(model)
    torch.testing.assert_close(packed, plain, rtol=ROUNDING, atol=ROUNDING)


def test_the_layers_are_really_packed():
    """Within the context the plain weights are not read: spoiling them changes nothing."""
    model = tiny_lm("llama").model
    plain = hidden_and_logits(model)
    with packed_linears(model, 2, torch.float32, WeightCache()):
        layer = model.model.layers[0].mlp.up_proj
        layer.weight.data.mul_(3.0)
        torch.testing.assert_close(hidden_and_logits(model), plain, rtol=ROUNDING, atol=ROUNDING)
    assert float((hidden_and_logits(model) - plain).abs().max()) > 100 * ROUNDING


def test_an_adapter_on_packed_layers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules="all-linear")
        model = get_peft_model(tiny_lm("llama").model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(0))
    plain = hidden_and_logits(model)
    with packed_linears(model, 2, torch.float32, WeightCache()):
        packed = hidden_and_logits(model)
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-4)


def test_an_error_leaves_the_layers_as_they_were():
    model = tiny_lm("llama").model
    with pytest.raises(KeyError), packed_linears(model, 2, torch.float32, WeightCache()):
        raise KeyError
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_nested_context_keeps_the_outer_one():
    model = tiny_lm("llama").model
    with packed_linears(model, 2, torch.float32, WeightCache()):
        with packed_linears(model, 4, torch.float32, WeightCache()):
            pass
        assert "forward" in vars(model.model.layers[0].mlp.up_proj)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("amd", [True, False])
def test_only_long_sampling_from_large_models_is_packed(amd, monkeypatch):
    monkeypatch.setattr(packing, "has_amds_avx512", lambda: amd)
    assert packing_pays(135_000_000, 16, torch.bfloat16)
    assert packing_pays(135_000_000, 64, torch.float32)
    assert packing_pays(135_000_000, 16, torch.float32) == amd
    assert not packing_pays(135_000_000, 4, torch.float32)
    assert not packing_pays(135_000_000, 4, torch.bfloat16)
    assert not packing_pays(135_000_000, 64, torch.float64)
    assert not packing_pays(1_000_000, 1000, torch.bfloat16)
