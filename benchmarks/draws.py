"""Draws needed to come within 0.05 nats of the target: ours, TRL's RLOO and GRPO, and plain DPG.

    python benchmarks/draws.py [--case tests/data/oracle/case_1] [--methods vargrad dpg ...]

The model and reward are the oracle's (beta 0.5), where KL(pi, p*) is exact. The prompts are of one
length: TRL lets GPT-2 count the padding of shorter ones among its positions when it scores, though
not when it draws, and would train another distribution than it draws from. Each method
runs at several learning rates; its figure is the fewest draws after which the exact KL, averaged
over prompts, is below 0.05 nats and stays there, the best of the rates, median over three seeds.
"Plain DPG" is `dpg` on the policy's own draws, one update a batch. "vargrad, replay" takes four
draws per prompt and step, keeps those of the last sixty, and makes eight updates a step: draws are
what it saves, not arithmetic.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import posteriori as po
from posteriori.core.registry import find
from posteriori.core.settings.training import FitConfig
from posteriori.train.fit import Trainer

BETA, NEAR, EACH, LENGTH = 0.5, 0.05, 16, 4
SEEDS = (0, 1, 2)


def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    """The oracle's: 1 a "b", -0.5 a "d", 0.3 for an end of sequence."""
    return [sum((t == 2) - 0.5 * (t == 4) for t in y) + 0.3 * (y[-1] == 0) for y in completion_ids]


class Oracle:
    """One case: its target, and the exact KL of any policy."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model"
        self.prompts = ["a b", "c d", "e a"]
        self.target = po.Target(
            po.load(self.model), po.Reward(reward, beta=BETA), self.prompts, LENGTH
        )
        self.exact = po.exact(self.target)

    def kl(self, lm) -> float:
        return float(self.exact.evaluate(lm)["kl_to_target"].mean())


def first_stay(path: list[tuple[int, float]]) -> float:
    """The number of draws from which on every KL of the path is below the mark."""
    needed = float("inf")
    for draws, kl in reversed(path):
        if kl >= NEAR:
            break
        needed = draws
    return needed


def ours(oracle: Oracle, name: str, rate: float, seed: int, steps: int, **how) -> float:
    """`how`: settings of the objective, replay, and draws per prompt and step (`each`)."""
    path: list[tuple[int, float]] = []
    how = dict(how)
    replay, each = how.pop("replay", 0), how.pop("each", EACH)

    def look(record) -> None:
        if (record["step"] + 1) % 5 == 0:
            draws = (record["step"] + 1) * each * len(oracle.prompts)
            path.append((draws, oracle.kl(trainer.policy)))

    settings = FitConfig(
        steps=steps, num_samples=each, learning_rate=rate, seed=seed, decay="none", replay=replay
    )
    trainer = Trainer(oracle.target, find("objective", name)(**how), settings, None, look)
    trainer.run()
    return first_stay(path)


def trl(oracle: Oracle, kind: str, rate: float, seed: int, steps: int) -> float:
    """TRL's trainer without scaling of advantages, its beta as ours."""
    path: list[tuple[int, float]] = []
    tokenizer = AutoTokenizer.from_pretrained(oracle.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(oracle.model)
    lm = po.CausalLM(model, tokenizer)

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step % 5 == 0:
                training = model.training
                draws = state.global_step * EACH * len(oracle.prompts)
                path.append((draws, oracle.kl(lm)))
                model.train(training)

    config, trainer, unscaled = {
        "rloo": (RLOOConfig, RLOOTrainer, {"normalize_advantages": False}),
        "grpo": (GRPOConfig, GRPOTrainer, {"scale_rewards": "none", "loss_type": "dr_grpo"}),
    }[kind]
    with tempfile.TemporaryDirectory() as folder:
        trainer(
            model=model,
            args=config(
                output_dir=folder,
                per_device_train_batch_size=EACH * len(oracle.prompts),
                num_generations=EACH,
                max_completion_length=LENGTH,
                max_steps=steps,
                beta=BETA,
                learning_rate=rate,
                lr_scheduler_type="constant",
                seed=seed,
                **unscaled,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            reward_funcs=reward,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": list(oracle.prompts) * (steps + 2)}),
            callbacks=[Look()],
        ).train()
    return first_stay(path)


def best(run: Callable[[float, int], float], rates: list[float]) -> tuple[float, float]:
    """The fewest draws over the rates, by the median over seeds; and that rate."""
    return min((statistics.median(run(rate, seed) for seed in SEEDS), rate) for rate in rates)


METHODS: dict[str, dict] = {
    "plain dpg": {"name": "dpg", "proposal": "policy"},
    "rloo": {"name": "rloo"},
    "vargrad, replay": {"name": "vargrad", "epochs": 8, "replay": 60, "each": 4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=Path, default=Path("tests/data/oracle/case_1"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--trl", nargs="*", default=["rloo", "grpo"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    oracle = Oracle(options.case)
    print(f"prior: {oracle.kl(oracle.target.prior):.2f} nats from the target")

    def show(name: str, run: Callable[[float, int], float]) -> None:
        draws, rate = best(run, options.rates)
        print(f"{name:24s} {draws:8.0f} draws to {NEAR} nats, at rate {rate:g}", flush=True)

    for method in options.methods:
        how = dict(METHODS[method])
        name = how.pop("name")
        show(method, lambda r, s, n=name, h=how: ours(oracle, n, r, s, options.steps, **h))
    for kind in options.trl:
        show(f"TRL {kind}", lambda r, s, k=kind: trl(oracle, k, r, s, options.steps))


if __name__ == "__main__":
    main()
