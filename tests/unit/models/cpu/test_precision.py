"""Reduced precision: what runs in it, and that log-probs stay those of the sampler."""

from __future__ import annotations

import copy
import platform

import pytest
import torch

import posteriori as po
from posteriori.core.seeds import generator
from posteriori.core.settings.training import LoraSettings
from posteriori.models.cpu import precision
from posteriori.models.cpu.precision import OutputHead, gains_from_bfloat16

PROMPTS = ["The food here is", "You", "My boss is a"]


@pytest.fixture(scope="module")
def half() -> po.CausalLM:
    return po.load("tiny", dtype="mixed")


def test_only_the_layers_matrices_are_reduced(half):
    dtypes = {name: p.dtype for name, p in half.model.named_parameters()}
    reduced = {name for name, dtype in dtypes.items() if dtype == torch.bfloat16}
    assert reduced
    assert all("_proj" in name for name in reduced)
    assert type(half.model.get_output_embeddings()) is OutputHead


def test_logits_are_float32_and_not_rounded_to_bfloat16(half):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = half.model(torch.tensor([[1, 50, 60]])).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_copy_of_the_model_computes_with_its_own_head(half):
    other = copy.deepcopy(half.model)
    other.get_output_embeddings().weight.data.zero_()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not half.model(torch.tensor([[1, 50]])).logits.eq(0).all()
        assert other(torch.tensor([[1, 50]])).logits.eq(0).all()


def test_sampled_log_probs_are_rescored_without_bias_and_nearer_than_plain_bfloat16(half):
    drawn = half.sample(PROMPTS, 64, 16, generator(0))
    with torch.no_grad():
        difference = half.log_prob(drawn) - drawn.log_prob_N
    error = float(difference.std()) / len(drawn) ** 0.5
    # A mean off by five standard errors happens by chance once in 1.7 million.
    assert abs(float(difference.mean())) < 5 * error
    plain = po.load("tiny", dtype="bfloat16")
    with torch.no_grad():
        rounded = plain.log_prob(drawn) - drawn.log_prob_N
    assert float(difference.abs().mean()) < 0.5 * float(rounded.abs().mean())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_policy_starts_as_its_reduced_prior_with_float32_weights_to_train(kind):
    prior = po.load("tiny", dtype="mixed")
    drawn = prior.sample(PROMPTS, 8, 8, generator(0))
    before = prior.log_prob(drawn).detach()
    policy = prior.as_policy(kind, LoraSettings(rank=2), seed=0)
    trained = [p for p in policy.module.parameters() if p.requires_grad]
    assert trained
    assert {p.dtype for p in trained} == {torch.float32}
    assert torch.allclose(policy.log_prob(drawn).detach(), before, atol=1e-5)


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("amd", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_on_x86_bfloat16_takes_the_tiles_of_amx_or_the_instructions_of_amd(
    tiles, amd, native, monkeypatch
):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(precision, "has_amds_avx512", lambda: amd)
    gains = gains_from_bfloat16(100_000_000, torch.device("cpu"))
    assert gains == (tiles or (amd and native))


def test_elsewhere_it_takes_native_products(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not native)
    assert gains_from_bfloat16(100_000_000, torch.device("cpu")) == native


def test_small_models_stay_in_float32():
    assert not gains_from_bfloat16(4_000_000, torch.device("cpu"))
    assert po.load("tiny").compute_dtype == torch.float32
