"""TRL's own trainers on an oracle case, imported without what they warn of themselves.

A module of tests that imports this one is skipped where TRL is not installed.
"""

from __future__ import annotations

import warnings

import pytest
from helpers import OracleCase, reward
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

QUIETLY = [
    pytest.mark.moves_rng,
    # Of the trainers, about themselves and what they import.
    pytest.mark.filterwarnings("ignore"),
]
"""Marks of every test that runs one of them."""

BETA = 0.5
"""The KL coefficient that all of them are given."""

COMMON = {
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "seed": 0,
}
ONLINE = {"max_completion_length": 4, "num_generations": 16, "per_device_train_batch_size": 48}


def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def trainer_of(name: str, case: OracleCase, folder, steps: int, peft=None, **settings) -> Trainer:
    """A trainer that goes for the oracle's posterior at `BETA`: 48 draws per step of the online
    ones, and no scaling by the group's standard deviation."""
    shared = {
        "model": AutoModelForCausalLM.from_pretrained(case.path),
        "processing_class": AutoTokenizer.from_pretrained(case.path),
        "peft_config": peft,
    }
    arguments = COMMON | {"output_dir": str(folder), "max_steps": steps, "beta": BETA} | settings
    rates = {"learning_rate": 1e-3} | arguments
    prompts = Dataset.from_list([{"prompt": prompt} for prompt in case.prompts] * 16)
    if name == "dpo":
        pairs = [
            {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            for prompt in case.prompts
            for chosen, rejected in [(" b b", " d"), (" b", " a d"), (" b c", " d d")]
        ]
        config = trl.DPOConfig(per_device_train_batch_size=9, **rates)
        return trl.DPOTrainer(args=config, train_dataset=Dataset.from_list(pairs), **shared)
    if name == "online_dpo":
        config = OnlineDPOConfig(max_new_tokens=4, per_device_train_batch_size=6, **rates)
        return OnlineDPOTrainer(args=config, reward_funcs=by_text, train_dataset=prompts, **shared)
    kind = {
        "grpo": (
            trl.GRPOTrainer,
            trl.GRPOConfig,
            {"scale_rewards": "none", "loss_type": "dr_grpo"},
        ),
        "rloo": (trl.RLOOTrainer, trl.RLOOConfig, {"normalize_advantages": False}),
    }[name]
    config = kind[1](**ONLINE, **kind[2], **rates)
    return kind[0](args=config, reward_funcs=reward, train_dataset=prompts, **shared)


def by_text(completions, **kwargs):
    """Online DPO tells its reward functions no token ids."""
    return [text.split().count("b") - 0.5 * text.split().count("d") for text in completions]
