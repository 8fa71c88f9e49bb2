"""A run as a file describes it: the target, and what to do with it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from posteriori.core.settings.ray import RayConfig
from posteriori.core.settings.refused import refuse
from posteriori.core.settings.strict import Strict
from posteriori.core.settings.training import (
    MAX_PROMPTS,
    MOST_GIB,
    FitConfig,
    FitRewardConfig,
    FitTwistConfig,
)
from posteriori.core.settings.until import MAX_SAMPLES, checked_until
from posteriori.errors import ConfigError
from posteriori.models.engines.settings import EngineConfig

from .evidence_table import EvidenceTable
from .prompt_settings import Prompts


class RunRewardSettings(FitRewardConfig):
    """`FitRewardConfig`, and which model is trained on which pairs, and where it goes."""

    model: str = "tiny"
    pairs: str
    output: str
    held_out_pairs: str | None = None


class RunRulesSettings(FitRewardConfig):
    """`FitRewardConfig`, and which model is trained on which labels, and where its rules go."""

    model: str = "tiny"
    labels: str
    output: str


class RunSftSettings(FitConfig):
    """`FitConfig`, without what is of draws; which model is trained on which demonstrations, for
    how long, and where the run goes. See `posteriori.sft`."""

    model: str = "tiny"
    data: str
    output: str
    steps: int | None = Field(default=None, ge=1)  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    epochs: float | None = Field(default=None, gt=0)
    rows_per_step: int = Field(default=16, ge=1)
    held_out: float = Field(default=0.1, ge=0, lt=1)
    completion_only: bool = True
    max_new_tokens: int | None = Field(default=None, ge=1)


class PriorSettings(Strict):
    """Which language model is the prior, and how it computes; see `posteriori.load`.

    With `prompt_prefix` it is that model with a prefix before every prompt (`posteriori.Prompted`);
    policies start, and are judged, without it. A `loader` is a plugin's, with `settings` of its
    own, in place of `path` and what is said of it.
    """

    path: str = "tiny"
    dtype: Literal["auto", "mixed", "float32", "bfloat16", "float16", "float64"] = "auto"
    device: str | None = Field(
        default=None, pattern=r"^(cpu|cuda|mps|xpu|hpu|npu|mtia)(:\d{1,3})?$"
    )
    merge_adapter: bool = False
    trust_remote_code: bool = False
    revision: str | None = Field(default=None, min_length=1)
    memory_gib: float | None = Field(default=None, gt=0, le=MOST_GIB)
    loader: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    prompt_prefix: str | None = Field(default=None, min_length=1)


class RunFitSettings(FitConfig):
    """`FitConfig`; which objective they are for, with settings of its own; and the prompts that
    training is judged on, a file or a list as `prompts` are."""

    objective: str = "auto"
    objective_settings: dict[str, Any] = Field(default_factory=dict)
    held_out: Prompts = None


class EvaluateSettings(Strict):
    """How many draws per prompt the policy is judged by, and on how many of the prompts at most;
    and how many exact draws of the target (by rejection) bound log Z and both KLs from both sides,
    where the evidence has a largest value. `until` draws on until kl_to_target, or each of several
    figures, is known to +- so much, `max_samples` at the most."""

    num_samples: int = Field(default=2000, ge=2)
    max_prompts: int = Field(default=MAX_PROMPTS, ge=1)
    posterior: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    until: float | dict[str, float] | None = None
    max_samples: int = Field(default=MAX_SAMPLES, ge=2)

    @model_validator(mode="after")
    def _until_can_be_waited_for(self) -> Self:
        if self.until is not None:
            try:
                checked_until(self.until, self.max_samples, self.num_samples)
            except ConfigError as error:
                refuse(error.what, error.hint)
        elif self.max_samples != MAX_SAMPLES:
            refuse("'max_samples' has no effect", "write until = 0.05 beside it")
        return self


class SampleSettings(Strict):
    """Which sampler draws, by means of which proposal (a path or hub id; default: the prior)."""

    sampler: str = "importance"
    num_samples: int = Field(default=256, ge=1)
    proposal: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)


class RunConfig(Strict):
    """A run from a file: the target (prior, evidence, prompts, length), and what to do with it.

    Paths are relative to the file's own directory, so that a run is the same wherever it is started
    from. `fit` may be missing where a config only says what policies are evaluated against, and
    `evidence` may be the empty list: the target is the prior then. With a table `ray`, `sample`,
    `evaluate` and `frontier` spread their work over Ray's actors. With a table `engine`, another
    program draws for `fit`, `sample` and `frontier` (`posteriori.Engine`).
    """

    output_dir: str | None = None
    prompts: Prompts
    max_new_tokens: int = Field(ge=1)
    prior: PriorSettings = PriorSettings()
    evidence: list[EvidenceTable]
    fit: RunFitSettings | None = None
    sample: SampleSettings = SampleSettings()
    twist: FitTwistConfig = FitTwistConfig()
    evaluate: EvaluateSettings = EvaluateSettings()
    sft: RunSftSettings | None = None
    reward: RunRewardSettings | None = None
    rules: RunRulesSettings | None = None
    ray: RayConfig | None = None
    engine: EngineConfig | None = None
