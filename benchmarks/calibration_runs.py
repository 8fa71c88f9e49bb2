"""Runs of what estimates figures of a target: `evaluate`, samplers, the frontier.

Draws for all runs of a cell are made at once where that makes them as independent as those of one
run each, and are then judged apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from calibration_worlds import World

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.numerics import log_mean_exp
from posteriori.core.seeds import derive, generator
from posteriori.diagnostics.evaluate import metrics
from posteriori.diagnostics.frontier.curve import Frontier
from posteriori.diagnostics.frontier.frontier import frontier_of
from posteriori.diagnostics.frontier.sampler_points import sampled
from posteriori.errors import EvidenceError, FrontierError, SamplingError
from posteriori.samplers.weight_findings import (
    findings_of_draws,
    log_z_of_pool,
    log_z_of_populations,
)

OF_TRAINING = {
    *("collapsed", "not_converged", "past_the_target", "over_optimised", "mostly_truncated"),
    "evidence_ruled_out",
}
"""Findings on the policy, not on how well a figure is known: no flag."""

Run = tuple[float, float, float, bool]
"""Value, stated error, truth, flagged."""

Rows = Iterator[tuple[str, Run]]

Runs = Callable[[World, int, int, int], Rows]
"""Of a world, with so many draws, so often, from a seed."""


def flagged(findings: Sequence[po.Finding]) -> bool:
    return any(f.level in ("warn", "stop") and f.name not in OF_TRAINING for f in findings)


def apart(draws: po.Draws, runs: int) -> Iterator[po.Draws]:
    """Draws for each prompt in `runs` equal parts."""
    prompts = len(draws.completions.prompt_set)
    each = len(draws) // prompts // runs
    row_PRn = torch.arange(len(draws)).view(prompts, runs, each)
    for run in range(runs):
        yield draws.select(row_PRn[:, run].flatten())


def _no_text(*_: object) -> po.Estimate:
    return po.Estimate(math.nan, math.nan, "heuristic", 0)


def evaluated(policy: str) -> Runs:
    """Without self-BLEU, which takes half of the time and has no truth here."""

    def run(world: World, num: int, runs: int, seed: int) -> Rows:
        lm, truth = world.models[policy], world.truth(policy, num)
        metrics.self_bleu = _no_text
        for at in range(runs):
            report = po.evaluate(world.target, lm, num, derive(seed, policy, at))
            for name, value in truth.items():
                e = report[name]
                # Of a figure whose error is unknown (NaN) nothing is claimed.
                claims = not math.isnan(e.standard_error)
                yield name, (e.value, e.standard_error, value, flagged(e.findings) or not claims)

    return run


def pooled(world: World, num: int, runs: int, seed: int) -> Rows:
    """Independent draws of the prior: `importance`, and what is behind qrs, best_of_n and imh."""
    whole = po.sample(world.target, "importance", runs * num, seed=seed)
    for draws in apart(whole, runs):
        log_z, found = log_z_of_pool(world.target, draws, weighted=True)
        yield from _of_draws(world, replace(draws, log_z=log_z, findings=tuple(found)))


def in_populations(name: str, each: int) -> Runs:
    """`each` populations are a run; of `annealed`, all runs of a cell share the pilot's ladder."""

    def run(world: World, num: int, runs: int, seed: int) -> Rows:
        whole = po.sample(world.target, name, runs * num, seed=seed, replicates=each * runs)
        for draws in apart(whole, runs):
            log_z_PC = log_mean_exp(draws.log_weight.view(len(world.prompts), each, -1))
            log_z = log_z_of_populations(world.target, draws, log_z_PC)
            draws = replace(draws, log_z=log_z, findings=())
            found = findings_of_draws(draws, world.target)
            yield from _of_draws(world, replace(draws, findings=tuple(found)))

    return run


def drawn(name: str, **settings: Any) -> Runs:
    """Run by run."""

    def run(world: World, num: int, runs: int, seed: int) -> Rows:
        if name == "rejection" and not world.stated:
            return
        for at in range(runs):
            try:
                draws = po.sample(world.target, name, num, seed=derive(seed, name, at), **settings)
            except SamplingError:
                continue
            yield from _of_draws(world, draws)

    return run


def _of_draws(world: World, draws: po.Draws) -> Rows:
    """log Z, and E[r] and KL(p*, prior) where these are draws of the target."""
    seen = flagged(draws.findings)
    if draws.log_z is not None:
        yield "log_z", (draws.log_z.value, draws.log_z.standard_error, world.log_z, seen)
    if draws.guarantee == "heuristic":
        return
    found = sampled(world.target, draws)
    target = world.tilted(1.0)
    truths = {
        "mean_reward": world.mean(target, world.reward_PV),
        "kl_to_prior": world.kl(target, world.log_prior_PV),
    }
    for figure, truth in truths.items():
        e = found.figures.get(figure)
        value, error = (math.nan, math.nan) if e is None else (e.value, e.standard_error)
        yield figure, (value, error, truth, seen or bool(found.why) or e is None)


def on_frontier(world: World, num: int, runs: int, seed: int) -> Rows:
    whole = draw(world.target, world.target.prior, runs * num, generator(seed, "calibration"))
    for pool in apart(whole, runs):
        yield from _of_curve(world, frontier_of(world.target, pool, strongest=1.5))


def on_annealed_frontier(world: World, num: int, runs: int, seed: int) -> Rows:
    for at in range(runs):
        yield from _of_curve(
            world, po.frontier(world.target, num, derive(seed, "frontier", at), strongest=1.5)
        )


def _of_curve(world: World, curve: Frontier) -> Rows:
    def kl(t: float) -> float:
        return world.kl(world.tilted(t), world.log_prior_PV)

    def reward(t: float) -> float:
        return world.mean(world.tilted(t), world.reward_PV)

    asked: dict[str, tuple[Callable[[], po.Estimate], float]] = {
        **{f"kl at beta, t={t:g}": (partial(_kl_at, curve, t), kl(t)) for t in (0.3, 1.0)},
        "reward at beta, t=0.3": (lambda: curve.at_beta(curve.unit / 0.3).reward, reward(0.3)),
        "kl at a reward, t=0.5": (lambda: curve.at_reward(reward(0.5)).kl, kl(0.5)),
        "reward at a kl, t=0.5": (lambda: curve.at_kl(kl(0.5)).reward, reward(0.5)),
    }
    for name, (ask, truth) in asked.items():
        try:
            found = ask()
        except FrontierError:
            yield name, (math.nan, math.nan, truth, True)
        else:
            run = (found.value, found.standard_error, truth, flagged(found.findings))
            yield name, run
    if curve.points:
        end = curve.points[-1]
        truth = kl(world.beta / end.beta)
        yield "kl at the end", (end.kl.value, end.kl.standard_error, truth, False)


def _kl_at(curve: Frontier, t: float) -> po.Estimate:
    return curve.at_beta(curve.unit / t).kl


def lambdas(world: World, num: int, runs: int, seed: int) -> Rows:
    """lambda of a feature that half of p* is to have: the upper fifth of the evidence."""
    cut_P1 = world.log_e_PV.quantile(0.8, dim=-1, keepdim=True)
    if not bool(cut_P1.isfinite().all()):
        return
    of_world = _feature(world, world.log_e_PV >= cut_P1)
    truth = None
    for at in range(runs):
        found = []
        for method in ("enumerate", "draws") if truth is None else ("draws",):
            moments = po.Moments(
                {"upper": (of_world, 0.5)}, num_samples=num, seed=derive(seed, at), method=method
            )
            po.Target(world.target.prior, moments, list(world.prompts), world.depth)
            try:
                found.append(moments.fitted)
            except EvidenceError:
                found.append(None)
        if truth is None:
            truth = found[0].lambda_["upper"].value if found[0] is not None else math.nan
        if math.isnan(truth):
            return
        fitted = found[-1]
        if fitted is None:
            yield "lambda", (math.nan, math.nan, truth, True)
            continue
        e = fitted.lambda_["upper"]
        yield "lambda", (e.value, e.standard_error, truth, flagged(fitted.findings))


def by_moments(world: World, num: int, runs: int, seed: int) -> Rows:
    """`evaluate` and `importance` of the prior for a target by `Moments`, against the lambda of all
    outcomes. Findings on lambda are findings on them."""
    cut_P1 = world.log_e_PV.quantile(0.8, dim=-1, keepdim=True)
    if not bool(cut_P1.isfinite().all()):
        return
    feature = _feature(world, world.log_e_PV >= cut_P1)
    prior = world.target.prior

    def wanting(method: Any, at: int) -> po.Target:
        moments = po.Moments(
            {"upper": (feature, 0.5)}, num_samples=num, seed=derive(seed, at), method=method
        )
        return po.Target(prior, moments, list(world.prompts), world.depth)

    try:
        exact = po.exact(wanting("enumerate", 0))
    except EvidenceError:
        return
    log_z = float(exact.log_z.mean())
    truth = {name: float(each.mean()) for name, each in exact.evaluate(prior, num).items()}
    kl = float(exact.evaluate_target()["kl_to_prior"].mean())
    for at in range(runs):
        target = wanting("draws", at)
        try:
            report = po.evaluate(target, prior, num, derive(seed, "moments", at))
            draws = po.sample(target, "importance", num, seed=derive(seed, "weighted", at))
        except EvidenceError:
            continue
        doubted = flagged(target.findings)
        for name in ("log_z", "elbo", "kl_to_target", "eubo", "kl_from_target", "target_entropy"):
            e = report[name]
            yield name, (e.value, e.standard_error, truth[name], doubted or flagged(e.findings))
        seen = doubted or flagged(draws.findings)
        e = draws.log_z
        yield "log_z of importance", (e.value, e.standard_error, log_z, seen)
        found = sampled(target, draws).figures.get("kl_to_prior")
        if found is not None:
            yield "kl_to_prior", (found.value, found.standard_error, kl, seen)


def pass_at(world: World, num: int, runs: int, seed: int) -> Rows:
    """pass@1 and pass@8 of the prior: what is in the upper fifth of the evidence is right."""
    right_PV = world.log_e_PV >= world.log_e_PV.quantile(0.8, dim=-1, keepdim=True)
    verifier = po.Verifier(_feature(world, right_PV))
    target = po.Target(world.target.prior, verifier, list(world.prompts), world.depth)
    p_P = torch.where(right_PV, world.log_prior_PV.exp(), 0.0).sum(-1)
    for at in range(runs):
        found = po.pass_at_k(target, None, (1, 8), num, derive(seed, at))["prior"]
        for k, e in found.figures.items():
            truth = float((1 - (1 - p_P) ** k).mean())
            yield f"pass@{k}", (e.value, e.standard_error, truth, flagged(e.findings))


def _feature(world: World, is_PV: torch.Tensor) -> Callable[..., list[bool]]:
    rows = is_PV.tolist()

    def feature(prompts, completion_ids, **_):
        pairs = zip(prompts, completion_ids, strict=True)
        return [rows[int(prompt[1:])][world.place(ids)] for prompt, ids in pairs]

    return feature
