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
    """Settings of the table "reward": `FitRewardConfig`, and on which pairs, from which model.

    Args:
        model: the language model that training starts from, a path or a hub id.
        pairs: the file of the preference pairs.
        output: the directory that the reward model is written to.
        held_out_pairs: a file of pairs that judge it; left out, a share of `pairs` does.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [reward]
        pairs = "pairs.jsonl"
        output = "runs/reward"
    """

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
    """Settings of the table "prior": which language model it is, and how it computes.

    See `posteriori.load`.

    Args:
        path: a path, a hub id, a GGUF file, an adapter, or "tiny", which is bundled.
        dtype: type of its arithmetic; "auto" is what the device does well.
        device: "cpu", "cuda:0", ..; left out, an accelerator where there is one.
        quantization: "4bit" or "8bit": weights are quantised as they are loaded.
        device_map: where the parts of a model go; "auto": over all GPUs.
        merge_adapter: fold an adapter into the weights.
        trust_remote_code: run the code that a hub's model brings; give a `revision` then.
        revision: the commit, branch or tag of a hub's model.
        memory_gib: GiB that passes may take; left out, a share of what is free.
        loader: a plugin's loader, in place of `path` and what is said of it.
        settings: the table of the loader's own settings.
        prompt_prefix: text before every prompt (`posteriori.Prompted`); policies start, and are
            judged, without it.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [prior]
        path = "HuggingFaceTB/SmolLM2-135M"
        dtype = "bfloat16"
    """

    path: str = "tiny"
    dtype: Literal["auto", "mixed", "float32", "bfloat16", "float16", "float64"] = "auto"
    device: str | None = Field(
        default=None, pattern=r"^(cpu|cuda|mps|xpu|hpu|npu|mtia)(:\d{1,3})?$"
    )
    quantization: Literal["4bit", "8bit"] | None = None
    device_map: str | None = Field(default=None, min_length=1)
    merge_adapter: bool = False
    trust_remote_code: bool = False
    revision: str | None = Field(default=None, min_length=1)
    memory_gib: float | None = Field(default=None, gt=0, le=MOST_GIB)
    loader: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    prompt_prefix: str | None = Field(default=None, min_length=1)


class RunFitSettings(FitConfig):
    """Settings of the table "fit": `FitConfig`, and which objective they are for.

    Args:
        objective: its name, as `posteriori ls objectives` lists it; "auto" chooses one for the
            target.
        objective_settings: the table of its own settings.
        held_out: the prompts that training is judged on, written as `prompts` are.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [fit]
        objective = "rloo"
        steps = 200
        learning_rate = 1e-4
    """

    objective: str = "auto"
    objective_settings: dict[str, Any] = Field(default_factory=dict)
    held_out: Prompts = None


class EvaluateSettings(Strict):
    """Settings of the table "evaluate": how many draws policies are judged by.

    See `posteriori.evaluate`.

    Args:
        num_samples: draws per prompt.
        max_prompts: prompts that they are judged on.
        posterior: exact draws of the target per prompt, by rejection, that bound log Z and both KLs
            from both sides; for evidence with a largest value.
        seed: of the draws.
        until: draw on until kl_to_target, or each figure of a table, is known to +- so much.
        max_samples: draws per prompt at which `until` gives up.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [evaluate]
        num_samples = 1000
        until = 0.05
    """

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
    """Settings of the table "sample": which sampler draws, by means of which proposal.

    See `posteriori.sample`.

    Args:
        sampler: its name, as `posteriori ls samplers` lists it.
        num_samples: draws per prompt.
        proposal: a path, a hub id or a run's directory; left out, the prior.
        settings: the table of the sampler's own settings.
        seed: of the draws.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [sample]
        sampler = "smc"
        settings = { twist = "evidence" }
    """

    sampler: str = "importance"
    num_samples: int = Field(default=256, ge=1)
    proposal: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)


class RunConfig(Strict):
    """A run from a file: the target (prior, evidence, prompts, length), and what to do with it.

        p*(y|c) = prior(y|c) prod_k e_k(c, y) / Z(c)

    Paths are relative to the file's own directory, so that a run is the same wherever it is started
    from.

    Args:
        output_dir: the run's directory; commands that train need it.
        prompts: a file, a list of texts or conversations, rows, or a table that says which part of
            a source.
        max_new_tokens: the longest completion, in tokens.
        prior: the language model that evidence is about.
        evidence: tables of evidence, multiplied together; empty: the target is the prior.
        fit: fine-tuning; left out where policies are only evaluated.
        sample: draws of the target.
        twist: a twist for `smc` that is learned.
        evaluate: how policies are judged.
        reward: a reward model that is trained first.
        ray: Ray's actors that share the work of `sample`, `evaluate` and `frontier`.
        engine: another program that draws for `fit`, `sample` and `frontier` (`posteriori.Engine`).

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        prompts = ["The food here is"]
        max_new_tokens = 12
        [[evidence]]
        kind = "constraint"
        words = { none_of = ["bad"] }
        [fit]
        steps = 100
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
