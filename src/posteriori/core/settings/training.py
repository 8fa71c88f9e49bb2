"""Settings: strict pydantic models, shared by the Python API and the command line's TOML files.

Unknown keys, ill types, infinities and out-of-range values are refused with one `ConfigError` that
names the key and what to write instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
)

from posteriori.config.evidence_settings import ReadyMadeSettings as ReadyMadeSettings
from posteriori.config.prompt_settings import Prompts
from posteriori.data.is_prompt import is_prompt as is_prompt
from posteriori.errors import ConfigError, did_you_mean
from posteriori.evidence.calls.settings import CallSettings as CallSettings

from .strict import Strict as Strict
from .strict import as_tuple
from .trl_names import name_here

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
    """A LoRA adapter: rank r, scale alpha/r, on every linear layer unless named otherwise."""

    rank: int = Field(default=16, ge=1, le=65536)
    alpha: float = Field(default=32.0, gt=0, le=1e6)
    target_modules: Annotated[
        str | tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_pattern)
    ] = "all-linear"


TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else as_tuple(value)


def _rate(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('input should be a valid number, or "auto"')
    if not math.isfinite(value):
        raise ValueError("input should be a finite number")
    if value <= 0:
        raise ValueError("input should be greater than 0")
    return float(value)


MAX_PROMPTS = 256
"""Prompts that a target is judged on unless more are asked for."""

MOST_PER_STEP = 64
"""Prompts of a training step unless their number is given."""


class FitSettings(Strict):
    """How `fit` trains. Draws, steps and rates; see `posteriori.fit` for what each one does."""

    steps: int = Field(ge=1)
    num_samples: int = Field(16, ge=1)
    prompts_per_step: int | None = Field(None, ge=1)
    learning_rate: Annotated[float | Literal["auto"], PlainValidator(_rate)] = "auto"
    first_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["linear", "cosine", "late", "none"] | None = None
    max_grad_norm: float | None = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    policy: Literal["full", "lora"] = "full"
    lora: LoraSettings = LoraSettings()
    micro_batch_size: int | None = Field(None, ge=1)
    checkpoint_every: int | None = Field(None, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    replay: int | None = Field(None, ge=0)
    kl_budget: float | None = Field(None, gt=0)
    reward_target: float | None = None
    budget_samples: int = Field(2000, ge=100)
    budget_stages: int = Field(8, ge=0)
    max_prompts: int = Field(MAX_PROMPTS, ge=1)
    evaluate_every: int = Field(0, ge=0)
    evaluate_samples: int | None = Field(None, ge=2)
    on_finding: Literal["off", "warn", "stop"] = "warn"
    tracker: Annotated[tuple[TrackerName, ...], BeforeValidator(_one_or_more)] = ()
    seed: int = Field(0, ge=0)


def prompts_per_step(settings: FitSettings, num_prompts: int) -> int:
    """As given; all prompts if left out, and 64 where there are more."""
    return min(settings.prompts_per_step or MOST_PER_STEP, num_prompts)


def budget_of(settings: FitSettings) -> str | None:
    """Which setting stands in for beta: "kl_budget", "reward_target" or none. Raises `ConfigError`
    for both."""
    asked = [name for name in ("kl_budget", "reward_target") if getattr(settings, name) is not None]
    if len(asked) > 1:
        raise ConfigError(
            "both kl_budget and reward_target are given", where="fit", hint="remove one of them"
        )
    return asked[0] if asked else None


class RewardSettings(Strict):
    """How `fit_reward` trains; see `posteriori.fit_reward` for what each one does."""

    tuning: Literal["full", "lora", "head"] = "full"
    lora: LoraSettings = LoraSettings()
    merge: bool = True
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup: float = Field(0.05, ge=0, le=1)
    decay: Literal["linear", "cosine", "none"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    label_noise: float = Field(0.0, ge=0, lt=0.5)
    held_out: float = Field(0.1, gt=0, lt=1)
    evaluate_every: int | None = Field(None, ge=1)
    patience: int = Field(4, ge=1)
    uncertainty: Literal["none", "ensemble", "laplace"] = "none"
    members: int = Field(8, ge=2)
    prior_precision: float | None = Field(None, gt=0)
    seed: int = Field(0, ge=0)


class RunRewardSettings(RewardSettings):
    """`RewardSettings`, and which model is trained on which pairs, and where it goes."""

    model: str = "tiny"
    pairs: str
    output: str
    held_out_pairs: str | None = None


class PriorSettings(Strict):
    """Which language model is the prior, and how it computes; see `posteriori.load`.

    With `prompt_prefix` it is that model with a prefix before every prompt (`posteriori.Prompted`);
    policies start, and are judged, without it.
    """

    path: str = "tiny"
    dtype: Literal["auto", "mixed", "float32", "bfloat16", "float16", "float64"] = "auto"
    device: str | None = Field(
        default=None, pattern=r"^(cpu|cuda|mps|xpu|hpu|npu|mtia)(:\d{1,3})?$"
    )
    merge_adapter: bool = False
    trust_remote_code: bool = False
    revision: str | None = Field(default=None, min_length=1)
    memory_gib: float = Field(default=1.5, gt=0, le=MOST_GIB)
    prompt_prefix: str | None = Field(default=None, min_length=1)


class FeatureSettings(Strict):
    """A moment: a function's name, and the mean that it is to have under the target."""

    function: str
    mean: float


class DistributionSettings(Strict):
    """Evidence about distributions: see `posteriori.Moments`, `Expert` and `Power`. Which key is
    for which kind is for `config.distributions` to say."""

    features: dict[str, FeatureSettings] | None = None
    per_prompt: bool | None = None
    num_samples: int | None = Field(None, ge=2)
    seed: int | None = Field(None, ge=0)
    method: Literal["auto", "draws", "enumerate"] | None = None
    weight: float | None = None
    prompt_prefix: str | list[dict[str, str]] | None = None
    over_text: bool | None = None
    alpha: float | None = Field(None, gt=0)


class EvidenceSettings(ReadyMadeSettings, DistributionSettings):
    """One piece of evidence: its kind, and the function or reward model that says it."""

    kind: str
    function: str | None = None
    model: str | None = None
    beta: float | None = Field(None, gt=0)
    calls: CallSettings | None = None
    max_reward: float | None = None
    uncertainty: Literal["mean", "marginal", "lower"] | None = None
    kappa: float | None = Field(None, ge=0)


class RunFitSettings(FitSettings):
    """`FitSettings`; which objective they are for, with settings of its own; and the prompts that
    training is judged on, a file or a list as `prompts` are."""

    objective: str = "auto"
    objective_settings: dict[str, Any] = Field(default_factory=dict)
    held_out: Prompts = None


class EvaluateSettings(Strict):
    """How many draws a prompt the policy is judged by, and on how many of the prompts at most; and
    how many exact draws of the target (by rejection) bound log Z and both KLs from both sides,
    where the evidence has a largest value."""

    num_samples: int = Field(default=2000, ge=2)
    max_prompts: int = Field(default=MAX_PROMPTS, ge=1)
    posterior: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)


class SampleSettings(Strict):
    """Which sampler draws, by means of which proposal (a path or hub id; default: the prior)."""

    sampler: str = "importance"
    num_samples: int = Field(default=256, ge=1)
    proposal: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)


class TwistSettings(Strict):
    """How `fit_twist` trains the twist of `smc`; see there for what each one does."""

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


class RunConfig(Strict):
    """A run from a file: the target (prior, evidence, prompts, length), and what to do with it.

    Paths are relative to the file's own directory, so that a run is the same wherever it is started
    from. `fit` may be missing where a config only says what policies are evaluated against, and
    `evidence` may be the empty list: the target is the prior then.
    """

    output_dir: str | None = None
    prompts: Prompts
    max_new_tokens: int = Field(ge=1)
    prior: PriorSettings = PriorSettings()
    evidence: list[EvidenceSettings]
    fit: RunFitSettings | None = None
    sample: SampleSettings = SampleSettings()
    twist: TwistSettings = TwistSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    reward: RunRewardSettings | None = None


SettingsT = TypeVar("SettingsT", bound=BaseModel)


_SHOWN = 60
"""Characters of a refused value that its error shows."""


def parse(model: type[SettingsT], values: Mapping[str, Any], *, where: str) -> SettingsT:
    """`values` as a `model`, or one `ConfigError` about the first thing that is wrong with them."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        # A misspelt key is the cause where another one is missing, so it is told first.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        raise ConfigError(_explain(model, first), where=where) from error


def _explain(model: type[BaseModel], error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        here = name_here(str(error["loc"][-1]))
        if here is not None:
            return f"unknown key '{path}'; {here}"
        return f"unknown key '{path}'; {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"'{path}' is missing; write {path} = ..."
    shown = repr(error.get("input"))
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    table = ".".join(part for part in error["loc"] if isinstance(part, str))
    if error["type"] in ("model_type", "list_type") and _fields_at(model, error["loc"]):
        several = error["type"] == "list_type" or not isinstance(error["loc"][-1], str)
        message = f"write it as a table, {f'[[{table}]]' if several else f'[{table}]'}"
    return f"'{path}' = {shown} is not valid: {message}"


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed in the table which `loc` points at."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)
