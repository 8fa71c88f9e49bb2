"""Settings: strict pydantic models, shared by the Python API and the command line's TOML files.

Unknown keys, ill types, infinities and out-of-range values are refused with one `ConfigError` that
names the key and what to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError, did_you_mean


class Strict(BaseModel):
    """No unknown keys, no silent conversions, no infinities, nothing changed after the check."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class LoraSettings(Strict):
    """A LoRA adapter: rank r, scale alpha/r, on every linear layer unless named otherwise."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    target_modules: str | tuple[str, ...] = "all-linear"


class FitSettings(Strict):
    """How `fit` trains. Draws, steps and rates; see `posteriori.fit` for what each one does."""

    steps: int = Field(ge=1)
    num_samples: int = Field(16, ge=1)
    prompts_per_step: int | None = Field(None, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["linear", "cosine", "none"] = "linear"
    max_grad_norm: float | None = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    policy: Literal["full", "lora"] = "full"
    lora: LoraSettings = LoraSettings()
    micro_batch_size: int | None = Field(None, ge=1)
    checkpoint_every: int | None = Field(None, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    seed: int = Field(0, ge=0)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def parse(model: type[SettingsT], values: Mapping[str, Any], *, where: str) -> SettingsT:
    """`values` as a `model`, or one `ConfigError` about the first thing that is wrong with them."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(*_explain(model, first), where=where) from error


def _explain(model: type[BaseModel], error: Any) -> tuple[str]:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        return (f"unknown key '{path}'; {did_you_mean(str(error['loc'][-1]), known)}",)
    if error["type"] == "missing":
        return (f"'{path}' is missing; write {path} = ...",)
    shown = error.get("input")
    message = error["msg"][0].lower() + error["msg"][1:]
    return (f"'{path}' = {shown!r} is not valid: {message}",)


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
