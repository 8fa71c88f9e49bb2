"""From a checked plan to its target: here torch comes in, and models are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError

from .check import Plan, make_plan

if TYPE_CHECKING:
    from posteriori.core.occurrence import Prompt
    from posteriori.core.protocols import LanguageModel
    from posteriori.core.run.progress import Progress
    from posteriori.core.target import Target
    from posteriori.train.budget import Budget

Note = Callable[[str], None]


@named_arguments
def load_target(path: Path | str, overrides: Sequence[str] = ()) -> Target:
    """The target that a run's TOML file describes: its prior, evidence, prompts and length.

    `overrides` are those of the command line's `--set`: `["evidence.0.beta=0.2"]`. Paths in the
    file count from its own folder. Moments are fitted; where a budget of `fit` replaces beta,
    it is the beta that the run in the file's `output_dir` has found.

    Args:
        path: a TOML file, as `posteriori fit` takes it.
        overrides: `key.path=value` each, put in before anything is checked.

    Returns:
        The target, with the prompts of the file and their columns.

    Raises:
        ConfigError: for a setting that is unknown or wrong, with file, key and what to write
            instead; nothing is loaded then.
        ModelError: for a model that is not there or cannot be loaded.
        DataError: for prompts that cannot be read.
        PromptError: for a prompt that does not fit into the prior's context.

    Example:
        >>> target = po.load_target("run.toml")
        >>> po.fit(target, "rloo", steps=200)
    """
    plan = make_plan(Path(path), list(overrides))
    return build_target(plan)


def build_target(
    plan: Plan,
    *,
    finds_beta: bool = True,
    on_moments: Progress | None = None,
    on_note: Note | None = None,
    journal: Path | None = None,
    resume: bool = False,
) -> Target:
    """The plan's target. Evidence comes first: it is quick to load, and likely to be wrong.

    Raises `PromptError` where a prompt does not fit into the prior's context. Moments are fitted
    here, so that unreachable ones are reported before anything else is done.

    Where a budget replaces beta, it is the beta that the run in the config's output_dir has found;
    raises `ConfigError` where none has. Without `finds_beta`, the reward is left without one.
    `on_moments` sees the fit of the moments, `journal` is where finished parts of it are kept, and
    `resume` takes them up; `on_note` receives what there is to say of a base model that has moved.
    """
    budget = budget_of_plan(plan) if finds_beta else None
    target = unfitted_target(plan, on_note)
    return finished_target(target, budget, on_moments, journal, resume)


def unfitted_target(plan: Plan, on_note: Note | None = None) -> Target:
    """The target whose moments are to be fitted yet."""
    from posteriori.core.target import Target

    from .models import load_model, load_prior

    evidence = [
        each.build(plan.site(index, lambda path: load_model(plan, path, on_note)))
        for index, each in enumerate(plan.config.evidence)
    ]
    prior = load_prior(plan, on_note)
    steps = plan.config.max_new_tokens
    check_lengths(prior, plan.data.prompts, steps)
    return Target(prior, evidence, plan.data.prompts, steps, plan.data.columns)


def finished_target(
    target: Target,
    budget: Budget | None,
    on_moments: Progress | None = None,
    journal: Path | None = None,
    resume: bool = False,
) -> Target:
    """The target with its moments fitted, at the beta of a budget if there is one."""
    from posteriori.moments.fit_moments import fit_moments
    from posteriori.moments.moments import Moments
    from posteriori.train.budget import within

    if any(isinstance(each, Moments) for each in target.evidence):
        fit_moments(target, on_progress=on_moments, journal=journal, resume=resume)
    return target if budget is None else within(target, budget)


def budget_of_plan(plan: Plan) -> Budget | None:
    """What a run has found of the budget that replaces beta, where one does. Raises
    `ConfigError` where none has found it yet."""
    from posteriori.train.budget import recorded_budget

    if plan.budget is None:
        return None
    found = None if plan.output_dir is None else recorded_budget(plan.output_dir)
    if found is None:
        raise ConfigError(
            f"{plan.budget} replaces beta, and no run has found it yet",
            where=str(plan.file),
            hint="run `posteriori fit` first, or give the evidence a beta",
        )
    return found


def build_held_out(plan: Plan, target: Target) -> Target | None:
    """The target over the plan's held-out prompts, if it has any. Raises `PromptError` as
    `build_target` does."""
    if plan.held_out is None:
        return None
    check_lengths(target.prior, plan.held_out.prompts, target.max_new_tokens)
    return target.with_prompts(plan.held_out.prompts, plan.held_out.columns)


def check_lengths(prior: LanguageModel, prompts: Sequence[Prompt], steps: int) -> None:
    """Raises `PromptError` for a prompt that does not fit, with the prefix where there is one."""
    from posteriori.core.prompted import Prompted, with_prefix
    from posteriori.models.causal import CausalLM
    from posteriori.models.text.prompt_tokens import check_length

    lm = prior.lm if isinstance(prior, Prompted) else prior
    if not isinstance(lm, CausalLM):
        return
    for prompt in prompts:
        given = with_prefix(prompt, prior.prefix) if isinstance(prior, Prompted) else prompt
        check_length(given, lm.encode(given), steps, lm.context_length)


def about(plan: Plan) -> dict[str, Any]:
    """What a run directory records of its target; a run is resumed only where it is the same."""
    config = plan.config
    read = [plan.data] if plan.held_out is None else [plan.data, plan.held_out]
    data = json.dumps([[each.prompts, each.columns] for each in read], sort_keys=True, default=str)
    return {
        "prior": config.prior.model_dump(mode="json", exclude_none=True),
        "evidence": [each.written() for each in config.evidence],
        "prompts": config.prompts,
        "prompts_sha256": hashlib.sha256(data.encode()).hexdigest(),
        "max_new_tokens": config.max_new_tokens,
    }
