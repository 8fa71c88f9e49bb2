"""The settings of training as keywords, for type checkers: a key for each field of the models in
`training.py`, which say what each one may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from .training import LoraSettings, PtxSettings, TrackerName

Lora = LoraSettings | Mapping[str, Any]


class FitKeywords(TypedDict, total=False):
    """See `posteriori.FitConfig`; `policy` may be a `peft.LoraConfig` too, and `policy` or `start`
    the model that the policy starts as."""

    steps: int
    num_samples: int
    prompts_per_step: int | None
    learning_rate: float | Literal["auto"]
    first_rate: float
    warmup_steps: int
    decay: Literal["linear", "cosine", "late", "none"] | None
    max_grad_norm: float | None
    weight_decay: float
    policy: Any
    lora: Lora
    start: Any
    micro_batch_size: int | None
    sharding: Literal["fsdp"] | None
    gradient_checkpointing: bool
    checkpoint_every: int | None
    keep_checkpoints: int
    replay: int | None
    ptx: PtxSettings | Mapping[str, Any] | None
    kl_budget: float | None
    reward_target: float | None
    budget_samples: int
    budget_stages: int
    max_prompts: int
    evaluate_every: int
    evaluate_samples: int | None
    on_finding: Literal["off", "warn", "stop"]
    tracker: TrackerName | Sequence[TrackerName]
    seed: int


class FitRewardKeywords(TypedDict, total=False):
    """See `posteriori.FitRewardConfig`."""

    tuning: Literal["full", "lora", "head"]
    lora: Lora
    merge: bool
    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    decay: Literal["linear", "cosine", "none"]
    weight_decay: float
    max_grad_norm: float
    label_noise: float
    held_out: float
    evaluate_every: int | None
    patience: int
    uncertainty: Literal["none", "ensemble", "laplace"]
    members: int
    prior_precision: float | None
    seed: int


class FitTwistKeywords(TypedDict, total=False):
    """See `posteriori.FitTwistConfig`."""

    steps: int
    num_samples: int
    updates: int
    ridge: float
    width: int
    rank: int
    replay: int
    least_share: float
    guidance: float
    ess_threshold: float
    seed: int
