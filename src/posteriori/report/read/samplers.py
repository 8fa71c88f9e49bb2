"""Samplers in a report: whether they are comparable with its runs, their names, and their
places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.core.reliability import DOUBTS
from posteriori.core.types import Estimate, Finding
from posteriori.diagnostics.frontier.sampler_points import NO_LOG_Z, with_log_z
from posteriori.errors import ConfigError
from posteriori.report.result import PolicyResult, SamplerNote, Subject
from posteriori.report.safe_text import number, one_line

from .draws import DrawsFile
from .records import SampleRecord, met
from .run import RunFiles
from .run_words import about, base_model, beta_of, betas_of, settings_of

_SHARED = ("prior", "prompts_sha256", "max_new_tokens", "evidence")
"""What must be the same to be put side by side; a beta of their own they may have."""

_DRAWS = {
    "exact": "exact draws",
    "properly_weighted": "properly weighted draws",
    "asymptotic": "draws in the limit of a long run",
    "heuristic": "draws",
}


def names_of(paths: Sequence[Path]) -> list[str]:
    """Their own names, with as much of the path before them as distinguishes them. Raises
    `ConfigError` for one that is there twice."""
    full = [path.resolve() for path in paths]
    if len(set(full)) < len(full):
        twice = next(path for path in full if full.count(path) > 1)
        kind = "run" if twice.is_dir() else "file"
        raise ConfigError(f"the {kind} '{twice}' is named twice", hint="name it once")
    depth = 1
    while len({path.parts[-depth:] for path in full}) < len(full):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in full]


def check_comparable(
    runs: Mapping[str, Mapping[str, Any]], draws: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise `ConfigError` where the configs, by name, are not of one prior, prompts, length and
    evidence. Runs that do not say are taken as they are, but not beside draws."""
    for key in _SHARED:
        silent = [name for name, config in runs.items() if key not in config]
        if draws and silent:
            raise ConfigError(
                f"the run '{silent[0]}' does not say its '{key}', so it is unknown whether "
                "the draws are of its target",
                hint="report on them one by one",
            )
        known = [(n, c[key]) for n, c in {**runs, **draws}.items() if key in c]
        for name, value in known[1:]:
            if _without_beta(value) != _without_beta(known[0][1]):
                raise ConfigError(
                    f"'{known[0][0]}' and '{name}' differ in '{key}', so their figures cannot "
                    "be put side by side",
                    hint="report on them one by one",
                )


def _without_beta(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_beta(each) for each in value]
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key != "beta"}
    return value


def with_samplers(
    subject: Subject, runs: Mapping[str, RunFiles], draws: Mapping[str, DrawsFile]
) -> Subject:
    """The subject of the runs, empty if there are none, and the samplers beside them."""
    names = _called(draws, {each.name for each in subject.everyone})
    samplers = [_result(names[name], each, runs, draws) for name, each in draws.items()]
    configs = [each.about.config for each in draws.values()]
    first = settings_of(next(iter(runs.values()))) if runs else configs[0]
    num_prompts = max(each.about.num_prompts for each in draws.values())
    betas = {b for config in configs if (b := beta_of(config)) is not None}
    record = about(
        first,
        len(subject.results),
        num_prompts,
        sorted(betas | set(betas_of(list(runs.values())))),
        len(samplers),
    )
    ran_with = {
        names[n]: each.about.config | {"sample": _settings(each.about)} for n, each in draws.items()
    }
    return replace(
        subject,
        title=subject.title or _title(list(names.values()), base_model(configs[0])),
        about=record,
        samplers=samplers,
        prompts=prompts_of([*subject.everyone, *samplers]),
        num_prompts=max(subject.num_prompts, num_prompts),
        settings=subject.settings or ran_with,
        versions={**subject.versions, **{names[n]: e.about.versions for n, e in draws.items()}},
        base_model=subject.base_model or base_model(configs[0]),
    )


def prompts_of(everyone: Sequence[PolicyResult]) -> dict[int, Prompt]:
    """The prompts with draws, by their position in the target."""
    found: dict[int, Prompt] = {}
    for each in everyone:
        found |= each.drawn.prompts
    return dict(sorted(found.items()))


def _called(draws: Mapping[str, DrawsFile], taken: set[str]) -> dict[str, str]:
    """Each sampler's own name where no other has it, and else with its file's."""
    kinds = [each.about.sampler for each in draws.values()]
    return {
        name: kind if kinds.count(kind) == 1 and kind not in taken else f"{kind}: {name}"
        for name, kind in zip(draws, kinds, strict=True)
    }


def _title(names: Sequence[str], prior: str) -> str:
    return one_line(f"{', '.join(names)} on {prior}" if prior else ", ".join(names), 120)


def _result(
    name: str, file: DrawsFile, runs: Mapping[str, RunFiles], draws: Mapping[str, DrawsFile]
) -> PolicyResult:
    record = file.about
    figures, why, findings = record.estimates, record.why_no_kl, list(record.findings)
    if why == NO_LOG_Z and "mean_log_evidence" in figures:
        others = _log_z_of_runs(record, runs) | _log_z_of_draws(record, draws)
        if others:
            source, log_z = min(others.items(), key=lambda each: each[1].standard_error)
            figures, why = with_log_z(figures, log_z), ""
            findings.append(
                Finding(
                    "info",
                    "log_z_from_elsewhere",
                    f"It estimates no log Z; its KL to the prior is with that of {source}, "
                    f"{number(log_z.value)} nats.",
                )
            )
        else:
            why = f"{NO_LOG_Z}, its own or one of the same target beside it"
    beta = beta_of(record.config)
    at = "" if beta is None else f"beta {number(beta)}"
    law = "the target" if record.of_target else "a law of its own, not the target"
    kind = _DRAWS[record.guarantee] if record.of_target else "draws"
    return PolicyResult(
        name,
        {**figures, **met(record.moments, "draws")},
        [],
        f"sampler; {kind} of {law}{f' at {at}' if at else ''}",
        findings,
        record.cost,
        file.drawn,
        record.num_draws,
        (),
        at,
        SamplerNote(record.guarantee, record.of_target, _in_words(_settings(record)), why),
    )


def _settings(record: SampleRecord) -> dict[str, Any]:
    own = {key: value for key, value in record.settings.items() if value is not None}
    proposal = {} if record.proposal is None else {"proposal": record.proposal}
    return {"num_samples": record.num_samples, "seed": record.seed, **proposal, **own}


def _in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def _same_target(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Beta included, which the shared settings leave open."""
    return one.get("evidence") == other.get("evidence") and beta_of(one) == beta_of(other)


def _log_z_of_runs(record: SampleRecord, runs: Mapping[str, RunFiles]) -> dict[str, Estimate]:
    return {
        f"the evaluation of {policy} in {name}": log_z
        for name, run in runs.items()
        if run.run is not None and _same_target(record.config, run.config)
        for policy, judged in run.run.policies.items()
        if (log_z := judged.estimates.get("log_z")) is not None
        and _usable(log_z, judged.findings, record)
    }


def _log_z_of_draws(record: SampleRecord, draws: Mapping[str, DrawsFile]) -> dict[str, Estimate]:
    return {
        f"{each.about.sampler} in {name}": log_z
        for name, each in draws.items()
        if each.about.of_target and _same_target(record.config, each.about.config)
        if not each.about.why_no_kl
        and (log_z := each.about.estimates.get("log_z")) is not None
        and _usable(log_z, each.about.findings, record)
    }


def _usable(log_z: Estimate, findings: Sequence[Finding], record: SampleRecord) -> bool:
    doubted = any("log_z" in DOUBTS.get(finding.name, ()) for finding in findings)
    same = (len(log_z.per_prompt) or 1) == record.num_prompts
    return same and not doubted and abs(log_z.value) + log_z.standard_error < float("inf")
