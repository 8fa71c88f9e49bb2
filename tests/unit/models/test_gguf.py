"""A GGUF file is loaded as plain weights, which can be saved and trained like any others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_gguf import write_tiny_gguf
from transformers import AutoModelForCausalLM

import posteriori as po


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_is_saved_as_plain_weights(path, tmp_path):
    lm = po.load(path)
    draws = lm.sample(["a b"], 4, 5, torch.Generator().manual_seed(0))
    lm.save_pretrained(tmp_path / "saved")
    again = po.load(tmp_path / "saved")
    torch.testing.assert_close(again.log_prob(draws), lm.log_prob(draws))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not hasattr(plain.config, "quantization_config")


def test_is_trained(path, tmp_path):
    prior = po.load(path)
    evidence = po.Reward(lambda completions, **_: [float("a" in text) for text in completions], 1.0)
    target = po.Target(prior, [evidence], ["a b"], max_new_tokens=4)
    fit = po.fit(
        target, "rloo", steps=2, num_samples=4, learning_rate=1e-3, output_dir=tmp_path / "run"
    )
    loaded = po.load(tmp_path / "run" / "policy")
    draws = fit.policy.sample(["a b"], 4, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.log_prob(draws), fit.policy.log_prob(draws).detach())
