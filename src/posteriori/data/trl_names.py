"""What settings of TRL's trainers are called here, for whoever writes them by habit."""

from __future__ import annotations

_BATCH = "write prompts_per_step and num_samples; micro_batch_size bounds memory"

_HERE = {
    "num_generations": "it is num_samples here: draws per prompt and step",
    "model": "it is the target's prior: Target(prior=model, ...)",
    "ref_model": "it is the target's prior: Target(prior=model, ...)",
    "args": "write the settings as keywords: steps=200, num_samples=8",
    "processing_class": "give posteriori.CausalLM(model, tokenizer) as the model",
    "tokenizer": "give posteriori.CausalLM(model, tokenizer) as the model",
    "n": "it is num_samples here: draws per prompt",
    "num_return_sequences": "it is num_samples here: draws per prompt",
    "dataset": "it is the target's: Target(..., prompts=dataset)",
    "max_tokens": "it is the target's: Target(..., max_new_tokens=...)",
    "max_steps": "it is steps here",
    "max_completion_length": "it is the target's: Target(..., max_new_tokens=...)",
    "max_new_tokens": "it is the target's: Target(..., max_new_tokens=...)",
    "max_length": "it is the target's: Target(..., max_new_tokens=...)",
    "beta": "it belongs to the evidence: Reward(fn, beta=...)",
    "kl_coef": "it belongs to the evidence: Reward(fn, beta=...)",
    "init_kl_coef": "it belongs to the evidence: Reward(fn, beta=...)",
    "reward_funcs": "they are the target's evidence: Reward([f, g], beta=..., weights=[...])",
    "reward_weights": "they belong to the evidence: Reward([f, g], beta=..., weights=[...])",
    "train_dataset": "it is the target's: Target(..., prompts=train_dataset)",
    "eval_dataset": "it is held_out here, with evaluate_every",
    "eval_steps": "it is evaluate_every here",
    "num_train_epochs": "write steps: an epoch is len(prompts) / prompts_per_step of them",
    "num_epochs": "write steps: an epoch is len(prompts) / prompts_per_step of them",
    "epochs": "write steps: an epoch is len(prompts) / prompts_per_step of them",
    "per_device_train_batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "batch_size": _BATCH,
    "gradient_accumulation_steps": "it is not needed: micro_batch_size keeps the gradient as it is",
    "generation_batch_size": "write prompts_per_step and num_samples",
    "lr": "it is learning_rate here",
    "lr_scheduler_type": "it is decay here",
    "warmup_ratio": "it is warmup_steps here",
    "save_steps": "it is checkpoint_every here",
    "save_total_limit": "it is keep_checkpoints here",
    "logging_steps": "every step is recorded; on_step sees each",
    "report_to": "it is tracker here",
    "peft_config": 'write policy="lora", lora={"rank": 16}, or policy=peft.LoraConfig(...)',
    "lora_config": 'write policy="lora", lora={"rank": 16}, or policy=peft.LoraConfig(...)',
    "use_peft": 'write policy="lora"',
    "lora_r": 'write policy="lora", lora={"rank": ...}',
    "lora_alpha": 'write policy="lora", lora={"alpha": ...}',
    "r": "it is rank here",
    "temperature": "it is the model's: posteriori.load(path, temperature=...)",
    "top_k": "it is the model's: posteriori.load(path, top_k=...)",
    "top_p": "it is the model's: posteriori.load(path, top_p=...)",
    "loss_type": 'it is the objective here: fit(target, "grpo"), "dpo", "ipo"',
    "epsilon": 'it belongs to the objective: objective_settings={"clip": ...} of "grpo", "ppo"',
    "num_iterations": 'it belongs to the objective: objective_settings={"epochs": ...} of "grpo"',
    "scale_rewards": 'it belongs to the objective: objective_settings={"scale": ...} of "grpo"',
    "bf16": 'it is the model\'s: posteriori.load(path, dtype="mixed")',
    "fp16": 'it is the model\'s: posteriori.load(path, dtype="mixed")',
    "use_vllm": "draws are made by the model itself",
}


def name_here(name: str) -> str | None:
    """Where a setting of TRL's trainers is here; None for a name that is none of theirs."""
    return _HERE.get(name)
