"""From a checked plan to the objects that it names: here torch comes in, and models are loaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posteriori.cli.console.output import stderr, visible
from posteriori.cli.console.progress_bar import count_progress, status
from posteriori.config.check import Plan
from posteriori.config.run_config import RunFitSettings
from posteriori.core.prompted import Prompted, with_prefix
from posteriori.core.protocols import LanguageModel
from posteriori.core.registry import find
from posteriori.core.target import Target
from posteriori.core.types import Prompt
from posteriori.errors import ConfigError, ModelError
from posteriori.models.causal import CausalLM
from posteriori.models.load import base_of_adapter, is_gone, load
from posteriori.models.prompt_tokens import check_length
from posteriori.moments.fit_moments import fit_moments
from posteriori.moments.moments import Moments
from posteriori.train.budget import recorded_budget, within


def build_target(
    plan: Plan,
    *,
    priced: bool = True,
    quiet: bool = False,
    journal: Path | None = None,
    resume: bool = False,
) -> Target:
    """The plan's target. Evidence comes first: it is quick to load, and likely to be wrong.

    Raises `PromptError` where a prompt does not fit into the prior's context. Moments are fitted
    here, so that unreachable ones are reported before anything else is done.

    Where a budget stands in for beta, it is the beta that the run in the config's output_dir has
    found; raises `ConfigError` where none has. Not `priced`, the reward is left without one. What
    takes time is shown, unless `quiet`. `journal` is where finished parts of the fit of the
    moments are kept, and `resume` takes them up.
    """
    budget = None
    if plan.budget is not None and priced:
        budget = None if plan.output_dir is None else recorded_budget(plan.output_dir)
        if budget is None:
            raise ConfigError(
                f"{plan.budget} stands in for beta, and no run has found it yet",
                where=str(plan.file),
                hint="run `posteriori fit` first, or give the evidence a beta",
            )
    with status(f"loading '{plan.prior}'", quiet=quiet):
        evidence = [
            each.build(plan.site(index, lambda path: load_model(plan, path)))
            for index, each in enumerate(plan.config.evidence)
        ]
        prior = _prior(plan)
    steps = plan.config.max_new_tokens
    _check_lengths(prior, plan.data.prompts, steps)
    target = Target(prior, evidence, plan.data.prompts, steps, plan.data.columns)
    if any(isinstance(each, Moments) for each in evidence):
        with count_progress("fitting the moments", quiet=quiet) as on_progress:
            fit_moments(target, on_progress=on_progress, journal=journal, resume=resume)
    return target if budget is None else within(target, budget)


def build_held_out(plan: Plan, target: Target) -> Target | None:
    """The target over the plan's held-out prompts, if it has any. Raises `PromptError` as
    `build_target` does."""
    if plan.held_out is None:
        return None
    _check_lengths(target.prior, plan.held_out.prompts, target.max_new_tokens)
    return target.asking(plan.held_out.prompts, plan.held_out.columns)


def load_model(plan: Plan, path: str) -> CausalLM:
    """A model that computes the way the config says of its prior.

    Of an adapter whose base model has been moved, the prior is taken for it if it has its name, and
    that is said on standard error.
    """
    settings = plan.config.prior
    moved = _moved_base(Path(path), plan.prior)
    if moved is not None:
        told = f"note: '{path}' stands on '{moved}', which is gone; '{plan.prior}' is taken for it"
        stderr().print(visible(told), soft_wrap=True)
    return load(
        path,
        base=None if moved is None else plan.prior,
        device=settings.device,
        dtype=settings.dtype,
        merge_adapter=settings.merge_adapter,
        memory_gib=settings.memory_gib,
        # What the config says is of the prior's own code.
        **(
            {"trust_remote_code": settings.trust_remote_code, "revision": settings.revision}
            if path == plan.prior
            else {}
        ),
    )


def _moved_base(adapter: Path, prior: str) -> str | None:
    """The base model that an adapter names, where it is gone and the prior has its name."""
    if not (adapter / "adapter_config.json").is_file():
        return None
    base = base_of_adapter(adapter)
    return base if is_gone(base) and Path(base).name == Path(prior).name else None


def load_policy(plan: Plan, path: str, target: Target, *, quiet: bool = False) -> CausalLM:
    """A policy to be judged. Raises `ModelError` where its tokens are not those of the prior: its
    log-probs would then be of other texts."""
    with status(f"loading '{path}'", quiet=quiet):
        policy, prior = load_model(plan, path), _bare(target.prior)
    same = (
        policy.eos_token_ids == prior.eos_token_ids
        and policy.tokenizer.get_vocab() == prior.tokenizer.get_vocab()
    )
    if not same:
        raise ModelError(
            f"the tokens of '{path}' are not those of the prior '{plan.prior}'",
            hint="compare models that share the prior's tokenizer and end-of-sequence tokens",
        )
    return policy


def _prior(plan: Plan) -> CausalLM | Prompted:
    bare, prefix = load_model(plan, plan.prior), plan.config.prior.prompt_prefix
    return bare if prefix is None else Prompted(bare, prefix)


def _bare(prior: LanguageModel) -> CausalLM:
    """The model itself, without a prefix."""
    lm = prior.lm if isinstance(prior, Prompted) else prior
    assert isinstance(lm, CausalLM)
    return lm


def _check_lengths(prior: LanguageModel, prompts: Sequence[Prompt], steps: int) -> None:
    """Raises `PromptError` for a prompt that does not fit, with the prefix where there is one."""
    lm = _bare(prior)
    for prompt in prompts:
        given = with_prefix(prompt, prior.prefix) if isinstance(prior, Prompted) else prompt
        check_length(given, lm.encode(given), steps, lm.context_length)


def about(plan: Plan) -> dict[str, Any]:
    """What a run directory records of its target; a run is resumed only where it is the same."""
    config = plan.config
    told = [plan.data] if plan.held_out is None else [plan.data, plan.held_out]
    data = json.dumps([[each.prompts, each.columns] for each in told], sort_keys=True, default=str)
    return {
        "prior": config.prior.model_dump(mode="json", exclude_none=True),
        "evidence": [each.written() for each in config.evidence],
        "prompts": config.prompts,
        "prompts_sha256": hashlib.sha256(data.encode()).hexdigest(),
        "max_new_tokens": config.max_new_tokens,
    }


def objective_settings(fit: RunFitSettings, folder: Path) -> dict[str, Any]:
    """As a run records them: with paths relative to the config's folder, so that both can move."""
    if fit.objective == "auto":
        return {}
    made = find("objective", fit.objective)(**fit.objective_settings)
    settings = made.settings.model_dump(mode="json")
    named = {
        key: os.path.relpath(settings[key], folder)
        for key in made.paths
        if isinstance(settings[key], str)
    }
    return {**settings, **named}
