"""What a run is about, in words: its title, its target, its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posteriori.report.safe_text import number, one_line

from .run import RunFiles


def settings_of(run: RunFiles) -> dict[str, Any]:
    """The demo keeps what it ran with beside its evaluation."""
    return run.config or ({} if run.run is None else run.run.demo)


def beta_of(config: Mapping[str, Any]) -> float | None:
    """The only beta there is: the one that a budget found, or the evidence's."""
    budget = config.get("budget")
    if isinstance(budget, dict) and isinstance(budget.get("beta"), float):
        return budget["beta"]
    betas = [config.get("beta"), *(each.get("beta") for each in _evidence(config))]
    known = [float(each) for each in betas if isinstance(each, int | float)]
    return known[0] if len(known) == 1 else None


def betas_of(runs: Sequence[RunFiles]) -> list[float]:
    found = {b for run in runs if run.run for b in run.run.beta_of_target.values()}
    return sorted(found | {b for run in runs if (b := beta_of(run.config)) is not None})


def _evidence(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    evidence = config.get("evidence")
    return (
        [each for each in evidence if isinstance(each, dict)] if isinstance(evidence, list) else []
    )


def base_model(config: Mapping[str, Any]) -> str:
    prior = config.get("prior")
    path = prior.get("path") if isinstance(prior, dict) else prior
    return path if isinstance(path, str) else ""


def title_of(runs: Sequence[RunFiles], names: Sequence[str]) -> str:
    if len(runs) > 1:
        return one_line(f"{len(runs)} runs: {', '.join(names)}", 120)
    run = runs[0]
    if run.run is not None and run.run.title:
        return run.run.title
    prior, objective = base_model(run.config), run.config.get("objective")
    return f"{objective} on {prior}" if prior and objective else names[0]


def about(
    config: Mapping[str, Any],
    num_policies: int,
    num_prompts: int,
    betas: Sequence[float],
    num_samplers: int = 0,
) -> str:
    """What was aligned to what, in one line."""
    parts = [_plural(num_policies, "policy", "policies")] if num_policies else []
    if num_samplers:
        parts.append(_plural(num_samplers, "sampler", "samplers"))
    if num_prompts:
        parts.append(_plural(num_prompts, "prompt", "prompts"))
    length = config.get("max_new_tokens")
    if isinstance(length, int):
        parts.append(f"completions of up to {_plural(length, 'token', 'tokens')}")
    evidence = ", ".join(_named(each) for each in _evidence(config))
    at = f" at beta {', '.join(number(beta) for beta in betas)}" if betas else ""
    target = "The target is the prior times its evidence"
    return f"{', '.join(parts)}. {target}{f': {evidence}' if evidence else ''}{at}."


def _named(evidence: Mapping[str, Any]) -> str:
    source = evidence.get("function") or evidence.get("model") or evidence.get("name") or ""
    return one_line(f"{evidence.get('kind', 'evidence')} {source}".strip(), 80)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def num_prompts(run: RunFiles) -> int:
    """A mean over prompts has an estimate of each inside; of a single prompt there may be none."""
    figures = [
        each
        for one in ({} if run.run is None else run.run.policies).values()
        for each in one.figures.values()
    ]
    return max((len(each.per_prompt) or 1 for each in figures), default=0)
