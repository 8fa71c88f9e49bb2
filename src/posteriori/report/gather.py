"""From one or several runs to the subject of one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..types import Finding
from .drawn import Drawn
from .result import PolicyResult, Subject
from .run_files import RunFiles
from .run_words import (
    about,
    base_model,
    beta_of,
    betas_of,
    num_prompts,
    settings_of,
    title_of,
)
from .text import number

PRIOR = "prior"
"""The name of the prior among the policies of evaluation.json."""

_SHARED = ("prior", "prompts_sha256", "max_new_tokens", "evidence")
"""What runs must have in common to be put side by side; a beta of their own they may have."""


def gather(folders: Sequence[Path | str]) -> Subject:
    """What a report on the runs in `folders` says, read from their files; no model is loaded.

    The prior and the frontier are those of the run that knows the frontier furthest: they do not
    depend on beta. Policies of several runs are told apart by their folders' names. Raises
    `CheckpointError` where a folder is not a run or a file of it is broken, and `ConfigError` where
    the runs have other priors, prompts, lengths or evidence.
    """
    if not folders:
        raise ConfigError("no run is named", hint="name the folder of a run")
    runs = [RunFiles(Path(folder)) for folder in folders]
    names = _names(runs)
    _check_comparable(dict(zip(names, runs, strict=True)))
    alone = len(runs) == 1
    results = [
        policy if alone else _among_others(policy, _joined(name, policy.name, run))
        for name, run in zip(names, runs, strict=True)
        for policy in _policies(run)
    ]
    best = max(runs, key=_reach)
    prior = _prior(best)
    if prior is not None and not alone:
        prior = _among_others(prior, prior.name)
    return Subject(
        title=title_of(runs, names),
        about=about(best, len(results), betas_of(runs)),
        results=results,
        prior=prior,
        prompts=_prompts(results, prior),
        num_prompts=num_prompts(best),
        curve=best.curve,
        settings=dict(zip(names, (settings_of(run) for run in runs), strict=True)),
        versions=dict(zip(names, (run.versions for run in runs), strict=True)),
        base_model=base_model(best.config),
    )


def _reach(run: RunFiles) -> tuple[bool, float]:
    """A run that has a prior at all comes first, then the one whose frontier goes furthest."""
    known = run.curve.points if run.curve is not None else ()
    return PRIOR in _evaluated(run), max((point.kl.value for point in known), default=-1.0)


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """The folders' names, with as much of the path before them as tells them apart."""
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ConfigError(f"the run '{twice}' is named twice", hint="name it once")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _joined(run_name: str, policy: str, run: RunFiles) -> str:
    """A run with one policy is known by its folder's name alone."""
    others = [name for name in _evaluated(run) if name != PRIOR]
    return run_name if len(others) <= 1 else f"{run_name}: {policy}"


def _among_others(policy: PolicyResult, name: str) -> PolicyResult:
    """Runs have betas of their own, so it is told which one judges what."""
    judged = f"; judged at {policy.target}" if policy.target else ""
    return replace(policy, name=name, description=f"{policy.description}{judged}")


def _evaluated(run: RunFiles) -> Mapping[str, Any]:
    return {} if run.run is None else run.run.policies


def _prior(run: RunFiles) -> PolicyResult | None:
    if run.run is None or PRIOR not in run.run.policies:
        return None
    return _result(run, PRIOR, run.run.described.get(PRIOR, "where the policy started"), None)


def _policies(run: RunFiles) -> list[PolicyResult]:
    if run.run is None:
        return [_unfinished(run)]
    found = []
    for name in run.run.policies:
        if name == PRIOR:
            continue
        where = run.run.runs.get(name)
        trained = run if where is None else _inside(run, where)
        found.append(_result(run, name, run.run.described.get(name, _trained(trained)), trained))
    return found


def _inside(run: RunFiles, folder: str) -> RunFiles | None:
    """The folder of one policy; a run without it still has its evaluation."""
    path = run.path / folder
    if path.resolve().parent != run.path.resolve():
        raise CheckpointError(
            f"it says that a policy was trained in '{folder}', which is no folder of the run's own",
            where=str(run.path / "evaluation.json"),
            hint="restore the file",
        )
    return RunFiles(path) if path.is_dir() else None


def _result(run: RunFiles, name: str, description: str, trained: RunFiles | None) -> PolicyResult:
    assert run.run is not None
    judged = run.run.policies[name]
    figures = judged.estimates
    beta = run.run.beta_of_target.get(name, beta_of(run.config))
    stopped = [run.run.stopped] if run.run.stopped is not None and name != PRIOR else []
    return PolicyResult(
        name,
        figures,
        [] if trained is None else trained.history,
        description,
        [*stopped, *judged.findings],
        judged.cost,
        run.drawn.get(name, Drawn()),
        run.run.num_samples * num_prompts(run),
        [] if trained is None else trained.evaluations,
        "" if beta is None else f"beta {number(beta)}",
    )


def _unfinished(run: RunFiles) -> PolicyResult:
    done, steps = len(run.history), run.config.get("steps")
    of = f"{done} of {steps} steps" if isinstance(steps, int) else f"{done} steps"
    finding = Finding(
        "warn",
        "not_evaluated",
        f"The run was stopped, or is under way: {of} are here and no evaluation.",
        "Go on with it: posteriori fit CONFIG --resume.",
    )
    name = str(run.config.get("objective", run.name))
    return PolicyResult(
        name, {}, run.history, f"not evaluated, {of}", [finding], evaluations=run.evaluations
    )


def _trained(run: RunFiles | None) -> str:
    if run is None or "objective" not in run.config:
        return ""
    return f"{run.config['objective']}, {run.config.get('steps', len(run.history))} steps"


def _prompts(results: Sequence[PolicyResult], prior: PolicyResult | None) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for each in [*([] if prior is None else [prior]), *results]:
        found |= each.drawn.prompts
    return dict(sorted(found.items()))


def _check_comparable(runs: Mapping[str, RunFiles]) -> None:
    (first, one), *others = runs.items()
    for name, other in others:
        for key in _SHARED:
            if key not in one.config or key not in other.config:
                continue
            if _without_beta(one.config[key]) != _without_beta(other.config[key]):
                raise ConfigError(
                    f"the runs '{first}' and '{name}' differ in '{key}', so their figures cannot "
                    "be put side by side",
                    hint="report on them one by one",
                )


def _without_beta(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_beta(each) for each in value]
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key != "beta"}
    return value
