"""From runs, and draws beside them, to the subject of one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posteriori.core.types import Finding
from posteriori.errors import CheckpointError, ConfigError
from posteriori.report.asked import shown_figures
from posteriori.report.result import PolicyResult, Subject
from posteriori.report.safe_text import number
from posteriori.runs.draw_records import Drawn

from .draws import DrawsFile, is_draws
from .run import RunFiles
from .run_words import about, base_model, beta_of, betas_of, num_prompts, settings_of, title_of
from .samplers import check_comparable, names_of, prompts_of, with_samplers

PRIOR = "prior"
"""The name of the prior among the policies of evaluation.json."""

START = "start"
"""The name there of what the policy started as, where that is another model than the prior."""

_STARTED = "where the policy started"


def gather(paths: Sequence[Path | str]) -> Subject:
    """What a report on the runs, and files of draws, at `paths` says; no model is loaded.

    The prior and the frontier are those of the run that knows the frontier furthest: they do not
    depend on beta. Policies of several runs are distinguished by their folders' names. A file that
    `posteriori sample` wrote is a sampler beside them, or alone. Raises `CheckpointError` where a
    folder is not a run or a file is broken, and `ConfigError` where they have other priors,
    prompts, lengths or evidence.
    """
    if not paths:
        raise ConfigError("no run is named", hint="name the folder of a run")
    given = [Path(path) for path in paths]
    names = names_of(given)
    runs = {n: RunFiles(p) for n, p in zip(names, given, strict=True) if not is_draws(p)}
    draws = {n: DrawsFile(p) for n, p in zip(names, given, strict=True) if is_draws(p)}
    check_comparable(
        {name: run.config for name, run in runs.items()},
        {name: each.about.config for name, each in draws.items()},
    )
    subject = _of_runs(runs) if runs else Subject("", "", [])
    return with_samplers(subject, runs, draws) if draws else subject


def _of_runs(named: Mapping[str, RunFiles]) -> Subject:
    names, runs = list(named), list(named.values())
    alone = len(runs) == 1
    results = [
        policy if alone else _among_others(policy, _joined(name, policy.name, run))
        for name, run in named.items()
        for policy in _policies(run)
    ]
    best = max(runs, key=_reach)
    prior = _prior(best)
    if prior is not None and not alone:
        prior = _among_others(prior, prior.name)
    return Subject(
        title=title_of(runs, names),
        about=about(settings_of(best), len(results), num_prompts(best), betas_of(runs)),
        results=results,
        prior=prior,
        prompts=prompts_of([*([] if prior is None else [prior]), *results]),
        num_prompts=num_prompts(best),
        curve=best.curve,
        settings={name: settings_of(run) for name, run in named.items()},
        versions={name: run.versions for name, run in named.items()},
        base_model=base_model(best.config),
    )


def _reach(run: RunFiles) -> tuple[bool, float]:
    """A run that has a prior at all comes first, then the one whose frontier goes furthest."""
    known = run.curve.points if run.curve is not None else ()
    return PRIOR in _evaluated(run), max((point.kl.value for point in known), default=-1.0)


def _joined(run_name: str, policy: str, run: RunFiles) -> str:
    """A run with one policy is known by its folder's name alone."""
    others = [name for name in _evaluated(run) if name != PRIOR and not is_start(name, run.config)]
    return run_name if len(others) <= 1 else f"{run_name}: {policy}"


def _among_others(policy: PolicyResult, name: str) -> PolicyResult:
    """Runs have betas of their own, so it is stated which one judges what."""
    judged = f"; judged at {policy.target}" if policy.target else ""
    return replace(policy, name=name, description=f"{policy.description}{judged}")


def is_start(name: str, config: Mapping[str, Any]) -> bool:
    """Whether that row of a run's evaluation is what its policy started as."""
    return name == START and config.get("start") is not None


def _evaluated(run: RunFiles) -> Mapping[str, Any]:
    return {} if run.run is None else run.run.policies


def _prior(run: RunFiles) -> PolicyResult | None:
    if run.run is None or PRIOR not in run.run.policies:
        return None
    usual = (
        "the prior" if any(is_start(each, run.config) for each in run.run.policies) else _STARTED
    )
    return _result(run, PRIOR, run.run.described.get(PRIOR, usual), None)


def _policies(run: RunFiles) -> list[PolicyResult]:
    if run.run is None:
        return [_unfinished(run)]
    found = []
    for name in run.run.policies:
        if name == PRIOR:
            continue
        if is_start(name, run.config):
            found.append(_result(run, name, run.run.described.get(name, _STARTED), None))
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
    figures = shown_figures(judged.estimates, against_target=run.run.against_target)
    of_pairs = [each for each in run.run.findings_of_pairs(name) if each not in judged.findings]
    beta = run.run.beta_of_target.get(name, beta_of(run.config))
    is_trained = name != PRIOR and not is_start(name, run.config)
    stopped = [run.run.stopped] if run.run.stopped is not None and is_trained else []
    return PolicyResult(
        name,
        {**figures, **run.run.asked(name)},
        [] if trained is None else trained.history,
        description,
        [*stopped, *judged.findings, *of_pairs],
        judged.cost,
        run.drawn.get(name, Drawn()),
        figures["mean_reward"].num_draws
        if "mean_reward" in figures
        else run.run.num_samples * num_prompts(run),
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
    if done == steps and (run.path / "policy").is_dir():
        finding = Finding(
            "warn",
            "finished_not_evaluated",
            f"The run is finished, {of}, and its policy has not been evaluated.",
            "Evaluate it: fit(..., report=True), or posteriori.report(prior=evaluate(target, prior)"
            ", policy=evaluate(target, policy)).",
        )
    name = str(run.config.get("objective", run.name))
    return PolicyResult(
        name, {}, run.history, f"not evaluated, {of}", [finding], evaluations=run.evaluations
    )


def _trained(run: RunFiles | None) -> str:
    if run is None or "objective" not in run.config:
        return ""
    return f"{run.config['objective']}, {run.config.get('steps', len(run.history))} steps"
