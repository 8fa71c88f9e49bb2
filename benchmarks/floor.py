"""A training step of SmolLM2-135M against the arithmetic that it cannot do without.

    python benchmarks/floor.py [--smollm2 models/smollm2] [--steps 12]

The floor counts the multiply-adds of the matrices alone, at the rate at which this machine
multiplies large square matrices in the dtype that each product uses: every token once through the
layers and the head for sampling, once for scoring by the prior, once for the policy's forward pass
and once more for the gradient with respect to the activations, and the LoRA matrices' own.
Attention, norms, softmax and whatever moves memory count nothing, so no step can reach it.

On a shared machine that rate may halve from one minute to the next, so it is measured again after
every step, over a second: the ratio is the median of each step over its own floor. A single product
may be twice as fast as a second of them is on average; what the floor would be at the rate of the
fastest is printed as well.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from step import LORA, SMOLLM2_PROMPTS, WARM_UP, our_seconds
from torch import Tensor, nn

import posteriori as po
from posteriori.models.causal import CausalLM
from posteriori.models.cpu.matmul import linear

DRAWS, LENGTH = 8, 16


def multiply_rates(dtype: torch.dtype, size: int = 2048, seconds: float = 1.0) -> Tensor:
    """Multiply-adds a second of square products, by the faster library: over so many seconds, and
    of the fastest."""
    a, b = torch.randn(2, size, size).to(dtype)
    taken: list[float] = []
    with torch.inference_mode():
        while sum(taken) < seconds:
            start = time.perf_counter()
            linear(a, b)
            taken.append(time.perf_counter() - start)
    return size**3 / torch.tensor([statistics.mean(taken), min(taken)])


def floor_seconds(lm: CausalLM, prompt_tokens: int, completions: int, length: int) -> Tensor:
    """Seconds of the multiply-adds of one step at both rates; the head multiplies in its weights'
    dtype."""
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
    layers = (passes * in_layers * fed + in_adapter) / multiply_rates(lm.compute_dtype)
    heads = passes * head.weight.numel() * predicted / multiply_rates(head.weight.dtype)
    return layers + heads


def steps_and_floors(lm: CausalLM, steps: int) -> Tensor:
    """Seconds of each step, and of both floors as they were right after it, [steps, 3]."""
    prompt_tokens = sum(len(lm.encode(prompt)) for prompt in SMOLLM2_PROMPTS)
    rows: list[Tensor] = []

    def measure(record: dict[str, Any]) -> None:
        floors = floor_seconds(lm, prompt_tokens, DRAWS * len(SMOLLM2_PROMPTS), LENGTH)
        rows.append(torch.cat([torch.tensor([record["seconds"]]), floors]))

    how = {"policy": "lora", "lora": LORA, "on_step": measure}
    our_seconds(lm, SMOLLM2_PROMPTS, DRAWS, LENGTH, steps, **how)
    return torch.stack(rows[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", default="models/smollm2", help="directory of SmolLM2-135M")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for dtype in ("mixed", "float32"):
        rows = steps_and_floors(po.load(options.smollm2, dtype=dtype), options.steps)
        step, floor, fastest = rows.median(dim=0).values.tolist()
        ratio, to_fastest = (rows[:, :1] / rows[:, 1:]).median(dim=0).values.tolist()
        print(
            f"SmolLM2-135M, LoRA r={LORA['rank']}, {DRAWS * len(SMOLLM2_PROMPTS)} x {LENGTH}, "
            f"dtype={dtype}: step {step:.2f} s, floor {floor:.2f} s, ratio {ratio:.2f}; "
            f"by the fastest product {fastest:.2f} s, {to_fastest:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
