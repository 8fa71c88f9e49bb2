"""A training step of SmolLM2-135M against the arithmetic that it cannot do without.

    python benchmarks/floor.py [--smollm2 models/smollm2] [--steps 12]

The floor counts the multiply-adds of the matrices alone, at the rate at which this machine
multiplies large square matrices in the dtype that each product uses: every token once through the
layers and the head for sampling, once for scoring by the prior, once for the policy's forward pass
and once more for the gradient with respect to the activations, and the LoRA matrices' own.
Attention, norms, softmax and whatever moves memory count nothing, so no step can reach it.

On a shared machine that rate may halve from one minute to the next, so it is measured again after
every step: the ratio is the median of each step over its own floor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from step import LORA, SMOLLM2_PROMPTS, WARM_UP, our_seconds
from torch import nn

import posteriori as po
from posteriori.models.causal import CausalLM

DRAWS, LENGTH = 8, 16


def multiply_rate(dtype: torch.dtype, size: int = 2048, rounds: int = 5) -> float:
    """Multiply-adds a second of a square matrix product, the best of several."""
    a, b = torch.randn(2, size, size).to(dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(rounds):
            start = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - start)
    return size**3 / min(seconds)


def floor_seconds(lm: CausalLM, prompt_tokens: int, completions: int, length: int) -> float:
    """Seconds of the multiply-adds of one step; the head multiplies in its weights' dtype."""
    base = lm.model
    assert isinstance(base, nn.Module)
    head = base.get_output_embeddings()
    linears = [m for m in base.modules() if isinstance(m, nn.Linear) and m is not head]
    in_layers = sum(m.weight.numel() for m in linears)
    rank = LORA["rank"]
    adapter = sum(rank * sum(m.weight.shape) for m in linears)
    # The last token of a completion is predicted and never fed.
    fed = completions * (length - 1) + prompt_tokens
    predicted = completions * length
    passes = 4
    in_adapter = (1 + 3) * adapter * fed
    layers = (passes * in_layers * fed + in_adapter) / multiply_rate(lm.compute_dtype)
    heads = passes * head.weight.numel() * predicted / multiply_rate(head.weight.dtype)
    return layers + heads


def steps_and_floors(lm: CausalLM, steps: int) -> list[tuple[float, float]]:
    """Seconds of each step, and of the floor as it was right after it."""
    prompt_tokens = sum(len(lm.encode(prompt)) for prompt in SMOLLM2_PROMPTS)
    pairs: list[tuple[float, float]] = []

    def measure(record: dict[str, Any]) -> None:
        floor = floor_seconds(lm, prompt_tokens, DRAWS * len(SMOLLM2_PROMPTS), LENGTH)
        pairs.append((record["seconds"], floor))

    how = {"policy": "lora", "lora": LORA, "on_step": measure}
    our_seconds(lm, SMOLLM2_PROMPTS, DRAWS, LENGTH, steps, **how)
    return pairs[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", default="models/smollm2", help="directory of SmolLM2-135M")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for dtype in ("auto", "float32"):
        pairs = steps_and_floors(po.load(options.smollm2, dtype=dtype), options.steps)
        step, floor = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"SmolLM2-135M, LoRA r={LORA['rank']}, {DRAWS * len(SMOLLM2_PROMPTS)} x {LENGTH}, "
            f"dtype={dtype}: step {step:.2f} s, floor {floor:.2f} s, ratio "
            f"{statistics.median(step / floor for step, floor in pairs):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
