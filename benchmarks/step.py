"""One training step against TRL's trainers at the same work: RLOO, GRPO and DPO.

    python benchmarks/step.py [--smollm2 models/smollm2] [--steps 20] [--only rloo grpo dpo]

Same model, prompts, draws per step, length, KL penalty and optimiser; the time per step is the
median over the later steps of a run, the first of which are not counted. Ours runs before and after
TRL's, and the mean of both counts, so that a machine that slows down hits both. Every completion
runs its full length in both (the reward and the rate are too small to change that). Advantages are
scaled in neither, so that both estimate the same gradient. DPO is trained on preference pairs whose
completions have the same length; TRL computes the reference's log-probs once, as we do.

The small GPT-2 is float32 on both sides and all its weights are trained; it has 1,000 tokens, which
leaves little but overhead, and then GPT-2's own 50,257. SmolLM2 is what `po.load` makes of it
(bfloat16 products and float32 for the rest where the machine gains from that, else all float32);
TRL's runs in its bf16 mode, the default, an autocast that rounds the head's products too, and once
more in float32.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from typing import Any

import torch
from common import GPT2_TOKENS, prompts, tiny_gpt2, tokenizer
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import posteriori as po
from posteriori.models.causal import CausalLM

WARM_UP = 2
EACH, LENGTH = 8, 16
LORA: dict[str, Any] = {"rank": 8, "alpha": 16.0}
_STARTS = ["I think you are", "My boss is", "The weather", "People say that this"]
SMOLLM2_PROMPTS = [f"{text}{dot}" for dot in ("", ".") for text in _STARTS]


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


_ARGUMENTS = {
    "max_completion_length": None,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "learning_rate": 1e-5,
}


def trl_seconds(
    name: str, model, tok, texts: list[str], each: int, length: int, steps: int, lora, bf16: bool
) -> float:
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = {**_ARGUMENTS, "bf16": bf16, "output_dir": folder, "max_steps": steps}
        rows = len(texts) * each
        if name == "dpo":
            arguments.pop("max_completion_length")
            trainer = DPOTrainer(
                model=model,
                args=DPOConfig(
                    **arguments,
                    per_device_train_batch_size=rows // 2,
                    beta=0.1,
                    max_length=None,
                    precompute_ref_log_probs=True,
                ),
                processing_class=tok,
                train_dataset=Dataset.from_list(pairs(tok, texts, each, length)),
                peft_config=lora,
                callbacks=[times],
            )
        else:
            config = {"rloo": RLOOConfig, "grpo": GRPOConfig}[name]
            unscaled = (
                {"normalize_advantages": False} if name == "rloo" else {"scale_rewards": "none"}
            )
            trainer = {"rloo": RLOOTrainer, "grpo": GRPOTrainer}[name](
                model=model,
                args=config(
                    **{**arguments, "max_completion_length": length},
                    **unscaled,
                    per_device_train_batch_size=rows,
                    num_generations=each,
                    beta=0.1,
                    generation_kwargs={"min_new_tokens": length},
                ),
                reward_funcs=reward,
                processing_class=tok,
                train_dataset=Dataset.from_dict({"prompt": texts * (steps + 2)}),
                peft_config=lora,
                callbacks=[times],
            )
        trainer.train()
    return times.median()


def pairs(tok, texts: list[str], each: int, length: int) -> list[dict[str, str]]:
    """Preference pairs whose completions are `length` tokens long, end of sequence included."""
    words = [tok.decode([token]) for token in range(10, 400)]
    words = [w for w in words if len(tok(" " + w.strip(), add_special_tokens=False).input_ids) == 1]

    def text(at: int) -> str:
        return "".join(f" {words[(at + 7 * k) % len(words)].strip()}" for k in range(length - 1))

    return [
        {"prompt": prompt, "chosen": text(5 * i + k), "rejected": text(5 * i + k + 50)}
        for k in range(each // 2)
        for i, prompt in enumerate(texts)
    ]


def our_seconds(
    lm: CausalLM,
    texts: list[str],
    each: int,
    length: int,
    steps: int,
    name: str = "rloo",
    **how: Any,
) -> float:
    target = po.Target(lm, [po.Reward(reward, beta=0.1)], texts, length)
    settings = {"pairs": pairs(lm.tokenizer, texts, each, length)} if name == "dpo" else {}
    fit = po.fit(
        target,
        name,
        objective_settings=settings,
        steps=steps,
        num_samples=each,
        learning_rate=1e-5,
        **how,
    )
    return statistics.median(step["seconds"] for step in fit.history[WARM_UP + 1 :])


def show(name: str, ours: float, theirs: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:38s} {theirs * 1e3:9.1f} ms TRL {ours * 1e3:9.1f} ms ours "
        f"  ratio {theirs / ours:.2f}   (peak so far {peak:.1f} GiB)",
        flush=True,
    )


def small(name: str, tokens: int, texts: list[str], steps: int) -> None:
    """The rows of the small GPT-2."""

    def ours() -> float:
        lm = CausalLM(tiny_gpt2(tokens=tokens), tokenizer(tokens))
        return our_seconds(lm, texts, EACH, LENGTH, steps, name)

    before = ours()
    with tempfile.TemporaryDirectory() as folder:
        # TRL loads its reference model by name, so the model has to lie somewhere.
        tiny_gpt2(tokens=tokens).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        tok = tokenizer(tokens)
        theirs = trl_seconds(name, model, tok, texts, EACH, LENGTH, steps, None, bf16=False)
    show(f"{name}, GPT-2, 2 layers, {tokens:,} tokens", (before + ours()) / 2, theirs)


def large(name: str, directory: str, steps: int) -> None:
    """The rows of SmolLM2, against both of TRL's precisions."""
    lm = po.load(directory)
    how: dict[str, Any] = {"name": name, "policy": "lora", "lora": LORA}
    before = our_seconds(lm, SMOLLM2_PROMPTS, EACH, LENGTH, steps, **how)
    theirs = [
        trl_seconds(
            name,
            AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32),
            lm.tokenizer,
            SMOLLM2_PROMPTS,
            EACH,
            LENGTH,
            steps,
            LoraConfig(
                r=LORA["rank"],
                lora_alpha=16,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            bf16=bf16,
        )
        for bf16 in (True, False)
    ]
    after = our_seconds(lm, SMOLLM2_PROMPTS, EACH, LENGTH, steps, **how)
    for seconds, dtype in zip(theirs, ("bfloat16", "float32"), strict=True):
        show(f"{name}, SmolLM2, LoRA r=8, TRL {dtype}", (before + after) / 2, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", help="directory of SmolLM2-135M")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=["rloo", "grpo", "dpo"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    texts = prompts(8)
    for tokens in (1000, GPT2_TOKENS):
        for name in options.only:
            small(name, tokens, texts, min(options.steps, 12) if tokens > 1000 else options.steps)
    for name in options.only if options.smollm2 else []:
        large(name, options.smollm2, min(options.steps, 6))


if __name__ == "__main__":
    main()
