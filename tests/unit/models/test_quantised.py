"""Quantised weights: they are scored as they are, and a policy on them is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers import ORACLE, PROMPTS, generator, plain_log_probs, tiny_model, word_tokenizer
from torch import nn

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ConfigError, ModelError
from posteriori.models import load as loading

MODEL = ORACLE / "case_1" / "model"


class Int8Linear(nn.Module):
    """x W' with W in 255 steps, as 8-bit layers have it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.scale = layer.weight.detach().abs().max() / 127
        quantised = (layer.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(quantised, requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


def flagged(model):
    model.is_quantized, model.quantization_method = True, "bitsandbytes"
    return model


def with_int8(model):
    for layer in model.model.layers:
        layer.mlp.down_proj = Int8Linear(layer.mlp.down_proj)
    return model


@pytest.mark.parametrize(("make", "named"), [(flagged, "bitsandbytes"), (with_int8, "int8")])
def test_it_is_a_prior_and_no_policy(make, named):
    model = make(tiny_model("llama").requires_grad_(False))
    lm = po.CausalLM(model, word_tokenizer())
    drawn = lm.sample(PROMPTS, 5, 4, generator())
    torch.testing.assert_close(drawn.log_prob_N, lm.log_prob(drawn), rtol=0, atol=1e-4)
    plain = plain_log_probs(model, drawn)
    torch.testing.assert_close(drawn.log_prob_N, plain, rtol=0, atol=1e-4)
    assert lm.in_float64() is lm
    for kind in ("full", "lora"):
        with pytest.raises(ModelError, match=rf"quantised \({named}\)"):
            lm.as_policy(kind, LoraSettings(rank=2), 0)


def test_a_checkpoint_whose_package_is_not_there_is_refused_in_a_line(tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    settings = json.loads(config.read_text()) | {"quantization_config": quantised}
    config.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="cannot load a causal language model") as refused:
        po.load(tmp_path / "model")
    assert "\n" not in str(refused.value)


def test_a_quantised_checkpoint_keeps_its_precision(monkeypatch):
    placed = loading._placed

    def quantised(model, dtype, device):
        return placed(flagged(model), dtype, device)

    monkeypatch.setattr(loading, "_placed", quantised)
    assert po.load(MODEL).compute_dtype == torch.float32
    with pytest.raises(ConfigError, match="which fixes its precision"):
        po.load(MODEL, dtype="bfloat16")
