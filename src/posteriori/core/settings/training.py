"""Settings: strict pydantic models, shared by the Python API and the command line's TOML files.

Unknown keys, ill types, infinities and out-of-range values are refused with one `ConfigError` that
names the key and what to write instead.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
)

from posteriori.data.rows import rows_of
from posteriori.errors import ConfigError

from .strict import Strict, as_tuple

MOST_GIB = 1_000_000
"""More memory than any machine has."""


def _pattern(value: Any) -> Any:
    if isinstance(value, str):
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"it is no regular expression of module names: {error}") from error
    return value


class LoraSettings(Strict):
    """A LoRA adapter of scale alpha / rank.

    Args:
        rank: its rank.
        alpha: the numerator of its scale.
        target_modules: names of the layers that have one, or a regular expression; "all-linear":
            every linear layer.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    rank: int = Field(default=16, ge=1, le=65536)
    alpha: float = Field(default=32.0, gt=0, le=1e6)
    target_modules: Annotated[
        str | tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_pattern)
    ] = "all-linear"


def _rows(value: Any) -> Any:
    """A path, or the rows of whatever else has rows: settings are recorded as plain values."""
    if value is None or isinstance(value, str | Path):
        return None if value is None else str(value)
    return [row for _, row in rows_of(value, "data")]


class PtxSettings(Strict):
    """A pretraining mix beside the objective: InstructGPT's PPO-ptx, for any objective.

    Args:
        data: demonstrations as `posteriori.sft` takes them: a file, or rows.
        weight: nats of KL(data, policy) that count as one nat of the objective.
        rows_per_step: rows per step.
        completion_only: prompts are given and not learned.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    data: Annotated[str | list[dict[str, Any]], BeforeValidator(_rows)]
    weight: float = Field(default=1.0, gt=0)
    rows_per_step: int = Field(default=16, ge=1)
    completion_only: bool = True


TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else as_tuple(value)


def _rate(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('input should be a valid number, or "auto"')
    if not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError("input should be a finite number")
    if value <= 0:
        raise ValueError("input should be greater than 0")
    return float(value)


MAX_PROMPTS = 256
"""Prompts that a target is judged on unless more are asked for."""

MOST_PER_STEP = 64
"""Prompts of a training step unless their number is given."""


class FitConfig(Strict):
    """Settings of `posteriori.fit`: draws, steps and rates.

    Args:
        steps: gradient steps.
        num_samples: draws per prompt and step.
        prompts_per_step: prompts of each step; left out, all of them, and at most 64.
        learning_rate: of the policy; "auto" finds one during the run.
        first_rate: the rate at which "auto" begins.
        warmup_steps: steps over which the rate rises from 0.
        decay: "late" (of "auto" if left out), "linear" (of a number if left out), "cosine", "none".
        max_grad_norm: norm at which gradients are clipped; None: they are not.
        weight_decay: of AdamW.
        policy: "full", or "lora" for an adapter.
        lora: the adapter's rank, alpha and modules.
        start: path, hub id or run directory of the model that the policy starts as; left out, the
            prior.
        micro_batch_size: completions per backward pass; bounds memory, and leaves the gradient as
            it is; left out, as many as fit.
        sharding: "fsdp" cuts weights, gradients and the optimiser's state over the processes
            (FSDP2), the prior's weights too, which stay so; left out, as `accelerate launch` says.
        gradient_checkpointing: keep each layer's input alone for the backward pass, which runs the
            layer again: the same gradient, less memory, a third more time.
        checkpoint_every: steps between checkpoints; left out, a tenth of the run.
        keep_checkpoints: how many stay on disk.
        replay: earlier steps whose draws join each step; left out, the objective's own number.
        ptx: demonstrations whose likelihood joins the loss: {"data": ..., "weight": 1.0}.
        kl_budget: KL(policy, prior) in nats, in place of beta.
        reward_target: mean reward, in place of beta.
        budget_samples: draws of the prior per prompt that beta is found from.
        budget_stages: annealed stages that may follow them.
        max_prompts: prompts that a budget is found on and policies are judged on.
        evaluate_every: steps between evaluations; 0: none.
        evaluate_samples: draws per prompt of each; left out, a 25th of those trained on.
        on_finding: what follows where an evaluation finds divergence or collapse: "off", "warn" or
            "stop".
        tracker: "tensorboard", "wandb", "trackio", "mlflow", or several.
        seed: of everything that is drawn.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.FitConfig(steps=200, learning_rate=1e-4).num_samples
        16
    """

    steps: int = Field(ge=1)
    num_samples: int = Field(default=16, ge=1)
    prompts_per_step: int | None = Field(default=None, ge=1)
    learning_rate: Annotated[float | Literal["auto"], PlainValidator(_rate)] = "auto"
    first_rate: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["linear", "cosine", "late", "none"] | None = None
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    policy: Literal["full", "lora"] = "full"
    lora: LoraSettings = LoraSettings()
    start: str | None = Field(default=None, min_length=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    sharding: Literal["fsdp"] | None = None
    gradient_checkpointing: bool = False
    checkpoint_every: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    replay: int | None = Field(default=None, ge=0)
    ptx: PtxSettings | None = None
    kl_budget: float | None = Field(default=None, gt=0)
    reward_target: float | None = None
    budget_samples: int = Field(default=2000, ge=100)
    budget_stages: int = Field(default=8, ge=0)
    max_prompts: int = Field(default=MAX_PROMPTS, ge=1)
    evaluate_every: int = Field(default=0, ge=0)
    evaluate_samples: int | None = Field(default=None, ge=2)
    on_finding: Literal["off", "warn", "stop"] = "warn"
    tracker: Annotated[tuple[TrackerName, ...], BeforeValidator(_one_or_more)] = ()
    seed: int = Field(default=0, ge=0)

    def recorded(self) -> dict[str, Any]:
        """As plain data, for the record of a run."""
        return self.model_dump(mode="json", include=set(FitConfig.model_fields))


def prompts_per_step(given: int | None, num_prompts: int) -> int:
    """As given; all prompts if left out, and 64 where there are more."""
    return min(given or MOST_PER_STEP, num_prompts)


def budget_of(kl_budget: float | None, reward_target: float | None) -> str | None:
    """Which setting replaces beta: "kl_budget", "reward_target" or none. Raises `ConfigError`
    for both."""
    if kl_budget is not None and reward_target is not None:
        raise ConfigError(
            "both kl_budget and reward_target are given", where="fit", hint="remove one of them"
        )
    if kl_budget is not None:
        return "kl_budget"
    return None if reward_target is None else "reward_target"


class FitRewardConfig(Strict):
    """Settings of `posteriori.fit_reward`: what is trained, for how long, and its uncertainty.

    Args:
        tuning: "full"; "lora"; or "head", which leaves the backbone as it is and solves for the
            head by Newton's method.
        lora: the adapter's rank, alpha and modules.
        merge: fold the adapter into the weights that are saved.
        epochs: passes over the pairs.
        batch_size: pairs per step.
        learning_rate: of AdamW.
        warmup: share of the steps over which the rate rises from 0.
        decay: "linear", "cosine" or "none".
        weight_decay: of AdamW.
        max_grad_norm: norm at which gradients are clipped.
        label_noise: share of labels that are known to be swapped, below 0.5.
        held_out: share of the pairs, by whole prompts, that judge the model.
        evaluate_every: steps between looks at the held-out loss; left out, a quarter of an epoch.
        patience: looks without a lower loss after which training ends.
        uncertainty: "none", "ensemble" of heads on bootstrap resamples, or "laplace", a Gaussian
            over the head.
        members: heads of an ensemble.
        prior_precision: of the head's Gaussian prior; left out, it is integrated over.
        seed: of everything that is drawn.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.FitRewardConfig(uncertainty="laplace").epochs
        3
    """

    tuning: Literal["full", "lora", "head"] = "full"
    lora: LoraSettings = LoraSettings()
    merge: bool = True
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    decay: Literal["linear", "cosine", "none"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    label_noise: float = Field(default=0.0, ge=0, lt=0.5)
    held_out: float = Field(default=0.1, gt=0, lt=1)
    evaluate_every: int | None = Field(default=None, ge=1)
    patience: int = Field(default=4, ge=1)
    uncertainty: Literal["none", "ensemble", "laplace"] = "none"
    members: int = Field(default=8, ge=2)
    prior_precision: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)

    def own(self) -> dict[str, Any]:
        """These settings alone, of a table that has others too."""
        return self.model_dump(include=set(FitRewardConfig.model_fields))

    def recorded(self) -> dict[str, Any]:
        """As plain data, for the record of a run."""
        return self.model_dump(mode="json", include=set(FitRewardConfig.model_fields))


class FitTwistConfig(Strict):
    """Settings of `posteriori.fit_twist`: SMC runs, and what is learned from each.

    Args:
        steps: runs of SMC, each with the twist as it is then.
        num_samples: particles per prompt of each run.
        updates: iterations of L-BFGS per step.
        ridge: precision of the Gaussian prior of the parameters, around where they start.
        width: units of the hidden layer; 0: none, and the problem is convex.
        rank: numbers per token that the hidden layer multiplies.
        replay: runs whose particles are learned from.
        least_share: while fewer than this share of particles is effective, the target of learning
            is prior x e^power with the largest power at which so many are.
        guidance: how far the runs' proposal follows the twist, between 0 and 1.
        ess_threshold: a population is resampled where fewer than this share of its particles is
            effective.
        seed: of everything that is drawn.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.FitTwistConfig(steps=10).num_samples
        64
    """

    steps: int = Field(default=50, ge=1)
    num_samples: int = Field(default=64, ge=2)
    updates: int = Field(default=20, ge=1)
    ridge: float = Field(default=1.0, gt=0)
    width: int = Field(default=0, ge=0)
    rank: int = Field(default=8, ge=1)
    replay: int = Field(default=16, ge=1)
    least_share: float = Field(default=0.05, ge=0, le=1)
    guidance: float = Field(default=0.9, ge=0, le=1)
    ess_threshold: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0)
