"""Fused LoRA layers: PEFT's numbers and gradients, and PEFT's own way where they do not apply."""

from __future__ import annotations

import gc

import pytest
import torch
from helpers import PROMPTS, generator, tiny_lm, word_tokenizer
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.models.cpu.fused_lora import fused_adapters
from posteriori.models.cpu.lora_linear import plain_adapter
from posteriori.models.cpu.packing import packed_linears
from posteriori.models.cpu.weight_cache import WeightCache


class Stack(nn.Module):
    """Two layers on one input, one of them with a bias, and a third on their product."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5, bias=False)
        self.last = nn.Linear(5, 4)

    def forward(self, x):
        return self.last(self.left(x) * self.right(x).tanh())


def adapted(**settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        every = ["left", "right", "last"]
        config = LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": every} | settings)
        model = get_peft_model(Stack(), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter.data)
    return model.eval()


def value_and_gradients(model, x):
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    value = model(x)
    slopes = torch.randn(value.shape, generator=generator(9))
    return [value, *torch.autograd.grad((value.float() * slopes).sum(), wanted)]


def example():
    return torch.randn(2, 3, 6, generator=generator(1)).requires_grad_()


def layers(model):
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


def test_values_and_gradients_are_pefts():
    model, x = adapted(), example()
    expected = value_and_gradients(model, x)
    with fused_adapters(model, torch.float32):
        assert all("forward" in vars(layer) for layer in layers(model))
        mine = value_and_gradients(model, x)
    assert not any("forward" in vars(layer) for layer in layers(model))
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_rounds_less_than_peft():
    """Of a layer wide enough for the errors to average out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = nn.Sequential(nn.Linear(64, 48))
        model = get_peft_model(wide, LoraConfig(r=8, lora_alpha=24, target_modules=["0"])).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter.data)
    x = torch.randn(32, 64, generator=generator(1)).requires_grad_()
    exact = value_and_gradients(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = value_and_gradients(model, x)
        with fused_adapters(model, torch.bfloat16):
            mine = value_and_gradients(model, x)
    for a, b, c in zip(mine, rounded, exact, strict=True):
        assert a.dtype == b.dtype
        assert 0 < (a - c).norm() < (b - c).norm()


def test_an_input_changed_in_place_is_rounded_again():
    model = adapted()
    with torch.no_grad(), fused_adapters(model, torch.bfloat16):
        x = torch.ones(1, 6)
        left, layer = model.base_model.model.left, model.base_model.model.right
        left(x)
        x.zero_()
        assert not layer(x).any()


def test_packed_adapters_are_pefts():
    model, x = adapted(), example().detach()
    with torch.no_grad():
        expected = model(x)
        with packed_linears(model, 6, torch.float32, WeightCache()):
            assert all("forward" in vars(layer) for layer in layers(model))
            torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def merged():
    model = adapted()
    model.merge_adapter()
    return model


def two_at_once():
    model = adapted()
    with torch.random.fork_rng(devices=[]):
        model.add_adapter("other", LoraConfig(r=2, target_modules=["left"]))
    model.base_model.set_adapter(["default", "other"])
    return model


def switched_off():
    model = adapted()
    model.base_model.disable_adapter_layers()
    return model


def with_dropout():
    return adapted(lora_dropout=0.5).train()


def with_a_hook():
    model = adapted()
    for layer in layers(model):
        layer.lora_A["default"].register_forward_hook(lambda _m, _i, out: 2 * out)
    return model


NOT_PLAIN = {
    "DoRA": lambda: adapted(use_dora=True),
    "a bias": lambda: adapted(lora_bias=True, target_modules=["left", "last"]),
    "merged": merged,
    "off": switched_off,
    "dropout": with_dropout,
    "a hook": with_a_hook,
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_anything_else_is_left_to_peft(name):
    model = NOT_PLAIN[name]()
    assert all(plain_adapter(layer) is None for layer in layers(model))
    with fused_adapters(model, torch.float32):
        assert not any("forward" in vars(layer) for layer in layers(model))


def test_two_adapters_at_once_are_left_to_peft():
    model = two_at_once()
    assert plain_adapter(model.base_model.model.left) is None
    assert plain_adapter(model.base_model.model.right) is not None


def test_base_weights_that_are_trained_are_left_to_peft():
    model = adapted().requires_grad_(True)
    with fused_adapters(model, torch.float32):
        assert not any("forward" in vars(layer) for layer in layers(model))


def test_a_policys_gradient_is_pefts(monkeypatch):
    policy = tiny_lm("llama").as_policy("lora", LoraSettings(rank=2), 0)
    trained = [p for p in policy.module.parameters() if p.requires_grad]
    for at, parameter in enumerate(trained):
        nn.init.normal_(parameter.data, std=0.1, generator=generator(at))
    drawn = policy.sample(PROMPTS, 5, 6, generator())
    mine = torch.autograd.grad(policy.log_prob(drawn).sum(), trained)
    monkeypatch.setattr("posteriori.models.cpu.lora_linear.plain_adapter", lambda _module: None)
    expected = torch.autograd.grad(policy.log_prob(drawn).sum(), trained)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


def test_a_steps_graph_is_freed():
    """An input that is rounded once for several layers is part of the graph that needs it."""
    lm = po.CausalLM(tiny_lm("llama").model, word_tokenizer(), compute_dtype=torch.bfloat16)
    policy = lm.as_policy("lora", LoraSettings(rank=2), seed=0)
    completions = policy.sample(PROMPTS, 4, 3, generator(0))

    def tensors_after_a_step() -> int:
        policy.log_prob(completions).sum().backward()
        gc.collect()
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    tensors_after_a_step()
    # Fewer is what earlier tests have left, and is no concern of this one.
    assert tensors_after_a_step() >= tensors_after_a_step()
