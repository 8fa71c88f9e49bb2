"""Gradient checkpointing: the same gradients from less memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers import PROMPTS, WORDS, generator, tiny_lm, tiny_model, word_tokenizer

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ConfigError
from posteriori.models.passes import recompute

NEAR = {"full": 1e-6, "lora": 5e-6}
"""Shares of the largest gradient: of float64 weights (norms stay float32), and of float32, where a
pass without a cache sums in another order."""


def gradients(kind: str, architecture: str, checkpointed: bool):
    """Of a sum of squares of log-probs; of full weights in float64."""
    model = tiny_model(architecture).requires_grad_(False)
    lm = po.CausalLM(model.double() if kind == "full" else model, word_tokenizer())
    policy = lm.as_policy(kind, LoraSettings(rank=4), 0)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            noise = torch.randn(parameter.shape, generator=generator())
            parameter.add_(0.05 * noise.to(parameter))
    if checkpointed:
        policy.checkpoint_gradients()
    drawn = lm.sample(PROMPTS, 5, 6, generator())
    policy.token_log_prob(drawn).square().sum().backward()
    return {name: each.grad for name, each in policy.module.named_parameters()}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize(
    "architecture", ["llama", "gpt2", "gpt_neox", "phi", "mistral, window of 3"]
)
def test_gradients_are_the_same(kind, architecture, monkeypatch):
    """Of known decoders and of any other; layers are run again, which is counted."""
    plain = gradients(kind, architecture, checkpointed=False)
    runs = []
    monkeypatch.setattr(
        recompute, "checkpoint", lambda *a, **k: (runs.append(1), _CHECKPOINT(*a, **k))[1]
    )
    found = gradients(kind, architecture, checkpointed=True)
    assert len(runs) >= 2
    largest = max(float(each.abs().max()) for each in plain.values() if each is not None)
    for name, expected in plain.items():
        if expected is None:
            assert found[name] is None, name
            continue
        assert float((found[name] - expected).abs().max()) < NEAR[kind] * largest, name


_CHECKPOINT = recompute.checkpoint


def test_a_fit_ends_with_the_same_weights():
    def weights(checkpointed):
        reward = po.Reward(lambda completion_ids, **_: [len(i) for i in completion_ids], beta=1.0)
        aim = po.Target(tiny_lm("llama"), reward, PROMPTS, 4)
        given = {"steps": 2, "num_samples": 4, "learning_rate": 1e-4, "seed": 0}
        fit = po.fit(aim, "rloo", gradient_checkpointing=checkpointed, policy="lora", **given)
        return fit.policy.trained_state()

    plain, found = weights(False), weights(True)
    assert max(float((found[n] - each).abs().max()) for n, each in plain.items()) < 1e-5


def test_a_table_has_no_layers():
    table = po.TabularLM.random(WORDS, 3, ["x"], seed=0)
    aim = po.Target(table, po.Reward(lambda completions, **_: [0.0] * len(completions)), ["x"], 3)
    with pytest.raises(ConfigError, match="gradient_checkpointing is for a CausalLM"):
        po.fit(aim.with_beta(1.0), "rloo", steps=1, gradient_checkpointing=True)


PEAKS = textwrap.dedent(
    """
    import torch
    from helpers import generator, word_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM
    import posteriori as po
    from posteriori.core.settings.training import LoraSettings

    def peak():
        # Of this program alone; getrusage begins with the peak of the process that forked it.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    config = LlamaConfig(
        vocab_size=6, hidden_size=128, intermediate_size=384, num_hidden_layers=16,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )
    torch.manual_seed(0)
    lm = po.CausalLM(LlamaForCausalLM(config), word_tokenizer())
    batch = lm.completions(["a b"] * 8, [[3 + at % 2 for at in range(256)]] * 8)
    for checkpointed in (True, False):
        policy = lm.as_policy("lora", LoraSettings(rank=4), 0)
        if checkpointed:
            policy.checkpoint_gradients()
        before = peak()
        policy.log_prob(batch).sum().backward()
        print(peak() - before)
    """
)


@pytest.mark.long
def test_the_peak_of_memory_is_lower():
    """The checkpointed pass goes first, so that the other one's peak is what it adds to it."""
    tests = os.path.dirname(os.path.abspath(__file__ + "/../../"))
    paths = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PEAKS],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    less, more = (int(line) for line in done.stdout.split())
    assert more > 1.5 * less, (less, more)
