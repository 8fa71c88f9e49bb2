"""A run that can be killed at a chosen moment: `python victim.py OUTPUT_DIR POLICY MOMENT`."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from helpers import OracleCase, reward

import posteriori as po
from posteriori.runs import directory
from posteriori.train import checkpoint

STEPS, EVERY = 12, 4


def noisy_reward(completion_ids, **kwargs):
    """Draws from all three global streams, as users' functions do."""
    noise = torch.rand(1).item() + random.random() + np.random.random()
    return [r + noise * len(y) for r, y in zip(reward(completion_ids), completion_ids, strict=True)]


def train(output_dir, policy: str, *, resume: bool = False, on_step=None) -> po.Fit:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    case = OracleCase("case_1")
    target = po.Target(case.prior(), po.Reward(noisy_reward, beta=0.5), case.prompts, 4)
    return po.fit(
        target,
        "rloo",
        steps=STEPS,
        num_samples=4,
        prompts_per_step=2,
        learning_rate=1e-2,
        warmup_steps=3,
        checkpoint_every=EVERY,
        policy=policy,
        **({"lora": {"rank": 2}} if policy == "lora" else {}),
        output_dir=output_dir,
        resume=resume,
        on_step=on_step,
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_within_a_checkpoint() -> None:
    """The second one has its weights, and not yet its optimiser."""
    save, calls = checkpoint.torch.save, []

    def interrupted(state, path):
        calls.append(path)
        save(state, path)
        if len(calls) == 4:
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            die()

    checkpoint.torch.save = interrupted


def die_within_a_metrics_line() -> None:
    def interrupted(self, line):
        text = directory.json.dumps(directory.jsonable(line)) + "\n"
        dying = line["step"] == 9
        with self.metrics_file.open("a") as file:
            file.write(text[:40] if dying else text)
        if dying:
            die()

    directory.RunDirectory.append_metrics = interrupted


def die_after_step(step: int):
    return lambda record: die() if record["step"] == step else None


if __name__ == "__main__":
    torch.set_num_threads(1)
    output_dir, policy, moment = sys.argv[1:]
    on_step = None
    if moment == "checkpoint":
        die_within_a_checkpoint()
    elif moment == "metrics":
        die_within_a_metrics_line()
    else:
        on_step = die_after_step(int(moment))
    train(output_dir, policy, on_step=on_step)
