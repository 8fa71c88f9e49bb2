"""One `rloo` step against TRL's RLOOTrainer at the same work.

    python benchmarks/step.py [--smollm2 models/smollm2] [--steps 10]

Same model, prompts, draws a step, length, KL penalty and optimiser; the time per step is the
median over the later steps of one run each, the first of which are not counted. Every completion
runs its full length in both (the reward and the rate are too small to change that). TRL's
advantages are not normalised, so that both estimate the same gradient.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time

import torch
from common import prompts, tiny_gpt2, tokenizer
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.utils import logging
from trl import RLOOConfig, RLOOTrainer

import posteriori as po
from posteriori.models.causal import CausalLM

WARM_UP = 2


def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    """Cheap, and different for different completions: the parity of the first token."""
    return [float(ids[0] % 2) for ids in completion_ids]


class StepTimes(TrainerCallback):
    """Seconds between the ends of TRL's steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(time.perf_counter())

    def median(self) -> float:
        gaps = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(gaps[WARM_UP:])


def trl_seconds(model, tok, texts: list[str], each: int, length: int, steps: int, lora) -> float:
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        config = RLOOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(texts) * each,
            num_generations=each,
            max_completion_length=length,
            max_steps=steps,
            beta=0.1,
            learning_rate=1e-5,
            normalize_advantages=False,
            generation_kwargs={"min_new_tokens": length},
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
        )
        trainer = RLOOTrainer(
            model=model,
            args=config,
            reward_funcs=reward,
            processing_class=tok,
            train_dataset=Dataset.from_dict({"prompt": texts * (steps + 2)}),
            peft_config=lora,
            callbacks=[times],
        )
        trainer.train()
    return times.median()


def our_seconds(lm: CausalLM, texts: list[str], each: int, length: int, steps: int, **how) -> float:
    target = po.Target(lm, [po.Reward(reward, beta=0.1)], texts, length)
    fit = po.fit(target, "rloo", steps=steps, num_samples=each, learning_rate=1e-5, **how)
    return statistics.median(step["seconds"] for step in fit.history[WARM_UP + 1 :])


def show(name: str, ours: float, theirs: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:34s} {theirs * 1e3:9.1f} ms TRL {ours * 1e3:9.1f} ms ours "
        f"  ratio {theirs / ours:.2f}   (peak so far {peak:.1f} GiB)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", help="directory of SmolLM2-135M")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    texts = prompts(8)
    ours = our_seconds(CausalLM(tiny_gpt2(), tokenizer()), texts, 8, 16, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        # TRL loads its reference model by name, so the model has to lie somewhere.
        tiny_gpt2().save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        theirs = trl_seconds(model, tokenizer(), texts, 8, 16, options.steps, None)
    show("GPT-2, 2 layers, full, 64 x 16", ours, theirs)
    if options.smollm2:
        texts = ["I think you are", "My boss is", "The weather", "People say that this"] * 2
        texts = [f"{text}{'.' * (i // 4)}" for i, text in enumerate(texts)]
        steps = min(options.steps, 6)
        lm = po.load(options.smollm2)
        settings = {"policy": "lora", "lora": {"rank": 8, "alpha": 16.0}}
        ours = our_seconds(lm, texts, 8, 16, steps, **settings)
        show_tok = lm.tokenizer
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = AutoModelForCausalLM.from_pretrained(options.smollm2, dtype=torch.float32)
        theirs = trl_seconds(model, show_tok, texts, 8, 16, steps, lora)
        show("SmolLM2-135M, LoRA r=8, 64 x 16", ours, theirs)


if __name__ == "__main__":
    main()
