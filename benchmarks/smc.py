"""SMC against plain sampling with our own sampler and against `model.generate`: 256 particles.

    python benchmarks/smc.py [--smollm2 models/smollm2] [--rounds 5] [--only "smc, no twist"]

Prints tokens per second of each, and SMC's share of our plain sampler's. Every row runs its full
length, so all do the same work; both of ours return log-probs. SMC has one population of 256, and
resamples at every step (`ess_threshold` 1) under a twist that reads the hidden states, so that its
cache is reindexed as often as it ever can be; then as it is by default, without a twist.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import paired
from sampler import generate_with_log_probs
from transformers import AutoModelForCausalLM

import posteriori as po
from posteriori.core.seeds import generator
from posteriori.core.settings.training import FitTwistConfig
from posteriori.models.causal import CausalLM
from posteriori.samplers.smc.fit_twist import new_head
from posteriori.samplers.smc.twist_head import TwistHead

PARTICLES = 256
PROMPTS = ("The food here is", "I think that")


def some_evidence(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [float(len(set(y))) for y in completion_ids]


def steering(target: po.Target) -> TwistHead:
    """A twist that has not learned anything, and is not constant."""
    head = new_head(target, FitTwistConfig())
    with torch.no_grad():
        head.of_state.weight.normal_(std=0.5, generator=generator(0))
    return head


def measure(
    name: str, lm: CausalLM, model: Any, length: int, rounds: int, only: list[str] | None
) -> None:
    """`model` is what transformers itself runs: in one dtype, where ours may mix two."""
    fixed = lm.warped(min_new_tokens=length)
    prompts = list(PROMPTS)
    target = po.Target(fixed, po.Reward(some_evidence, beta=1.0), prompts, length)
    head = steering(target)
    tokens = len(prompts) * PARTICLES * length

    def plain() -> object:
        return fixed.sample(prompts, PARTICLES, length, generator(0))

    def smc(**settings: object) -> Callable[[], object]:
        return lambda: po.sample(target, "smc", PARTICLES, replicates=1, **settings)

    def theirs() -> object:
        return generate_with_log_probs(model, lm.tokenizer, prompts, PARTICLES, length)

    runs = {
        "model.generate": theirs,
        "smc, resampled every token": smc(twist=head, ess_threshold=1.0),
        "smc, adaptive, learned twist": smc(twist=head, ess_threshold=0.5),
        "smc, evidence twist": smc(twist="evidence"),
        "smc, no twist": smc(),
    }
    for label, run in runs.items():
        if only and not any(label.startswith(each) for each in only):
            continue
        ours, other = paired(plain, run, rounds)
        print(
            f"{name:10s} {label:30s} {tokens / other:9.0f} tokens/s, plain {tokens / ours:9.0f}"
            f"   {ours / other:.2f} of plain",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", help="directory of SmolLM2 (scripts/fetch_smollm2.py)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--only", nargs="+", help="how the names of the rows begin")
    chosen = parser.parse_args()
    how = chosen.length, chosen.rounds, chosen.only
    tiny = po.load("tiny")
    measure("tiny", tiny, tiny.model, *how)
    if chosen.smollm2:
        half = AutoModelForCausalLM.from_pretrained(chosen.smollm2, dtype=torch.bfloat16).eval()
        measure("smollm2", po.load(chosen.smollm2), half, *how)


if __name__ == "__main__":
    main()
