"""What statistics by prompt cost: evaluating 10,000 prompts x 64 draws, and one step's record.

The models are tables of three tokens, so that nearly all of the time is bookkeeping: estimates,
error bars, findings. Prints seconds of CPU time and the process's peak memory.

    python benchmarks/bookkeeping.py --prompts 10000 --draws 64
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.registry import find
from posteriori.core.seeds import generator
from posteriori.diagnostics.evaluate.evaluate import Report

WORDS = ("<eos>", "a", "b", "c")
DEPTH = 4
OBJECTIVES = ("rloo", "vargrad", "tb", "reinforce")


def worth(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Several levels, so that draws differ in their evidence."""
    return [sum(ids) / 7 for ids in completion_ids]


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Runs it and prints what it took."""
    start, wall = time.process_time(), time.perf_counter()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:32} {time.process_time() - start:8.2f} s CPU "
        f"{time.perf_counter() - wall:8.2f} s wall  peak {peak:5.2f} GiB",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=64)
    sizes = parser.parse_args()
    prompts = [f"prompt {at}" for at in range(sizes.prompts)]
    prior = po.TabularLM.random(WORDS, DEPTH, prompts, seed=1, scale=0.5)
    policy = po.TabularLM.random(WORDS, DEPTH, prompts, seed=2, scale=0.5)
    target = po.Target(prior, po.Reward(worth, beta=0.5), prompts, DEPTH)
    fresh = timed(
        "drawing and scoring",
        lambda: draw(target, policy, sizes.draws, generator(0, "draws")),
    )

    def judged() -> Report:
        return po.evaluate(target, policy, sizes.draws, max_prompts=None)

    print(timed("evaluate", judged))
    log_prob_N = fresh.log_proposal_N
    for name in OBJECTIVES:
        objective = find("objective", name)()
        objective.prepare(target, lambda: policy, 0)

        with torch.no_grad():
            timed(f"weigh, {name}", lambda o=objective: o.weigh(fresh, log_prob_N))
            timed(f"record, {name}", lambda o=objective: o.observe(fresh, log_prob_N))


if __name__ == "__main__":
    main()
