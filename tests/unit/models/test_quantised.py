"""Quantised weights: they are scored as they are, and a policy on them is refused."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import ORACLE, PROMPTS, generator, plain_log_probs, tiny_model, word_tokenizer
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ConfigError, ModelError
from posteriori.models import load as loading
from posteriori.models import quantised_loading
from posteriori.models.weights import state

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


def test_a_lora_policy_stands_on_what_transformers_says_can_be_trained():
    """Its parameters are its own; the quantised ones stay the prior's."""
    model = with_int8(tiny_model("llama").requires_grad_(False))
    model.hf_quantizer = SimpleNamespace(is_trainable=True)
    lm = po.CausalLM(model, word_tokenizer())
    policy = lm.as_policy("lora", LoraSettings(rank=2, target_modules=("q_proj",)), 0)
    own = policy.model.get_base_model().model.layers[0].mlp.down_proj.weight
    assert own is model.model.layers[0].mlp.down_proj.weight
    drawn = lm.sample(PROMPTS, 5, 4, generator())
    torch.testing.assert_close(policy.log_prob(drawn), lm.log_prob(drawn), rtol=0, atol=1e-4)
    (policy.log_prob(drawn) * drawn.log_prob_N.exp()).sum().backward()
    assert any(bool(each.grad.any()) for each in policy.module.parameters())
    with pytest.raises(ModelError, match="quantised"):
        lm.as_policy("full", LoraSettings(), 0)


def test_an_adapter_on_quantised_weights_without_a_path_cannot_be_saved(tmp_path):
    model = with_int8(tiny_model("llama").requires_grad_(False))
    model.hf_quantizer = SimpleNamespace(is_trainable=True)
    lm = po.CausalLM(model, word_tokenizer())
    policy = lm.as_policy("lora", LoraSettings(rank=2, target_modules=("q_proj",)), 0)
    with pytest.raises(ModelError, match="and the base has none"):
        policy.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("asked", "needs"), [("4bit", "bitsandbytes,"), ("8bit", "bitsandbytes or torchao,")]
)
def test_a_package_that_is_missing_is_named(asked, needs, monkeypatch):
    monkeypatch.setattr(quantised_loading, "_is_there", lambda package: False)
    with pytest.raises(ModelError, match=f"needs {needs}") as refused:
        po.load("tiny", quantization=asked)
    assert "pip install" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_transformers_is_given(monkeypatch):
    monkeypatch.setattr(quantised_loading, "_is_there", lambda package: True)
    four = quantised_loading.quantisation_config("4bit", "auto")
    assert four.load_in_4bit
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    eight = quantised_loading.quantisation_config("8bit", "auto")
    assert eight.load_in_8bit
    own = BitsAndBytesConfig(load_in_4bit=True)
    assert quantised_loading.quantisation_config(own, "auto") is own
    with pytest.raises(ConfigError, match="unknown quantization '3bit'"):
        po.load("tiny", quantization="3bit")
    with pytest.raises(ConfigError, match="these are quantised"):
        po.load("tiny", quantization="4bit", dtype="mixed")
    with pytest.raises(ConfigError, match="both device and device_map"):
        po.load("tiny", device="cpu", device_map="auto")


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["8bit", "torchao"])
def test_a_quantised_prior_under_lora(asked, tmp_path):
    """Drawn, scored, trained, saved as an adapter and loaded, still quantised. LLM.int8 rounds the
    rows of a batch together, so a log-prob depends on the batch."""
    pytest.importorskip("torchao" if asked == "torchao" else "bitsandbytes")
    config, atol = asked, 0.1 if asked == "8bit" else 1e-3
    if asked == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    lm = po.load("tiny", quantization=config, device="cpu")
    assert state.quantisation(lm.model) is not None
    drawn = lm.sample(["The food"], 4, 6, generator())
    torch.testing.assert_close(drawn.log_prob_N, lm.log_prob(drawn), rtol=0, atol=atol)
    plain = po.load("tiny", device="cpu", dtype="float32").log_prob(drawn)
    assert 1e-4 < float((plain - drawn.log_prob_N).abs().max()) < 3.0
    reward = po.Reward(lambda completion_ids, **_: [len(ids) for ids in completion_ids], beta=5.0)
    aim = po.Target(lm, reward, ["The food"], 4)
    given = {"steps": 2, "num_samples": 4, "learning_rate": 1e-2}
    fit = po.fit(aim, "rloo", policy="lora", on_note=lambda _: None, **given)
    fit.policy.save_pretrained(tmp_path)
    again = po.load(tmp_path, device="cpu")
    assert state.quantisation(again.model) is not None
    with torch.no_grad():
        trained, loaded = fit.policy.log_prob(drawn), again.log_prob(drawn)
    torch.testing.assert_close(trained, loaded, rtol=0, atol=atol)
    assert float((trained - lm.log_prob(drawn)).abs().max()) > 0.1


@pytest.mark.slow
def test_four_bits_draw_and_score_on_the_cpu_and_are_not_trained_there():
    pytest.importorskip("bitsandbytes")
    lm = po.load("tiny", quantization="4bit", device="cpu")
    drawn = lm.sample(["The food"], 4, 6, generator())
    torch.testing.assert_close(drawn.log_prob_N, lm.log_prob(drawn), rtol=0, atol=0.05)
    with pytest.raises(ModelError, match="has no gradient on the CPU"):
        lm.as_policy("lora", LoraSettings(rank=2), 0)


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

    def quantised(model, *given):
        return placed(flagged(model), *given)

    monkeypatch.setattr(loading, "_placed", quantised)
    assert po.load(MODEL).compute_dtype == torch.float32
    with pytest.raises(ConfigError, match="which fixes its precision"):
        po.load(MODEL, dtype="bfloat16")
