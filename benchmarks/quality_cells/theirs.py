"""TRL's RLOO and GRPO on a world, with float32 weights.

The bundled file's weights are half precision; training in that would cost TRL nats that have
nothing to do with its algorithm. "Defaults" are those of TRL but for what makes the work equal:
the target's beta, the draws per prompt and step, and their length. At a rate of the grid the
advantages are not scaled by their standard deviation, and GRPO's loss is the one that does not
divide by a completion's own length, because both move the fixed point away from the posterior.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from transformers.utils import logging

from posteriori.models.causal import CausalLM

from .worlds import World

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

_KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "rloo": (RLOOConfig, RLOOTrainer, {"normalize_advantages": False}),
    "grpo": (GRPOConfig, GRPOTrainer, {"scale_rewards": "none", "loss_type": "dr_grpo"}),
}


def train(
    world: World, kind: str, rate: float | None, steps: int, seed: int
) -> tuple[CausalLM, float]:
    """The policy after so many steps (rate None: TRL's defaults), and the seconds it took."""
    config, trainer_of, unscaled = _KINDS[kind]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(world.path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(world.path, dtype=torch.float32)
    beta = world.rewards[0].beta
    # As posteriori's own default adapter.
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trainer_of(
            model=model,
            args=config(
                output_dir=folder,
                max_steps=steps,
                # A batch holds every prompt once, with all its draws.
                per_device_train_batch_size=len(world.prompts) * world.num_samples,
                num_generations=world.num_samples,
                max_completion_length=world.max_new_tokens,
                beta=beta,
                reward_weights=[beta / part.beta for part in world.rewards],
                seed=seed,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                **({} if rate is None else {"learning_rate": rate, **unscaled}),
            ),
            reward_funcs=[part.function for part in world.rewards],
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": list(world.prompts)}),
            peft_config=lora if world.policy == "lora" else None,
        )
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    trained = trainer.accelerator.unwrap_model(trainer.model)
    trained.requires_grad_(False)
    adapter = "default" if world.policy == "lora" else None
    return CausalLM(trained, tokenizer, adapter=adapter), seconds
