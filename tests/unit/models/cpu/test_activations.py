"""GELU in one operation: the same numbers and gradients, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from helpers import generator, tiny_lm
from transformers.activations import NewGELUActivation

from posteriori.models.cpu.activations import fused_activations
from posteriori.models.cpu.patched import replaced


def test_numbers_and_gradients_are_those_of_the_formula():
    gelu = NewGELUActivation()
    x = (5 * torch.randn(1000, dtype=torch.float64, generator=generator(0))).requires_grad_()

    def both():
        y = gelu(x)
        return y, torch.autograd.grad(y.sum(), x)[0]

    plain = both()
    with replaced(fused_activations(gelu)):
        fused = both()
    for mine, expected in zip(fused, plain, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_they_are_really_replaced_and_put_back(monkeypatch):
    model = tiny_lm("gpt2").model
    ids = torch.arange(3)[None]

    def refuse(*_):
        raise AssertionError

    with monkeypatch.context() as patched, replaced(fused_activations(model)):
        patched.setattr(NewGELUActivation, "forward", refuse)
        model(input_ids=ids)
    assert not any("forward" in vars(module) for module in model.modules())
    model(input_ids=ids)


def test_one_with_a_hook_is_left_alone():
    activation = NewGELUActivation()
    activation.register_forward_hook(lambda module, inputs, output: output + 1.0)
    with replaced(fused_activations(activation)):
        assert float(activation(torch.zeros(()))) == pytest.approx(1.0)
