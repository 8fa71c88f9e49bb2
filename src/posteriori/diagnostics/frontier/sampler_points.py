"""Where a sampler's draws lie in the reward-KL plane, and where that cannot be estimated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posteriori.core.estimates import by_prompt, combine, with_error_of_fit
from posteriori.core.numerics import ess
from posteriori.core.reliability import NEVER_SATISFIED, NOT_TRUSTED, most_evidence
from posteriori.core.target import Target
from posteriori.core.types import Draws, Estimate, Kind
from posteriori.diagnostics.diversity import distinct_n, unique_fraction
from posteriori.diagnostics.tilting import Stage, beta_of, proportional

FEWEST_EFFECTIVE = 20.0
"""Weighted draws that are worth fewer than these have an error that they do not show themselves."""

_DOUBTS = {
    NEVER_SATISFIED: "want of draws that the evidence allows",
    NOT_TRUSTED: "weights that cannot be trusted",
    "chains_may_have_missed": "chains that may have missed the most evidence",
    "chains_disagree": "chains that have not converged",
    "chains_drift": "chains that have not converged",
    "convergence_unknown": "chains that may not have converged",
}
"""Findings after which draws do not stand for the target, and what they mean for a point."""


@dataclass(frozen=True)
class Sampled:
    """What draws say of the distribution that they are draws of.

    `figures` by name, as in an evaluation; without `kl_to_prior` where it is not known, and `why`
    says then what for: "not in the plane, for weights that cannot be trusted".
    """

    figures: dict[str, Estimate]
    why: str = ""


def sampled(target: Target, draws: Draws, *, of_target: bool = True) -> Sampled:
    """E_p*[r] and KL(p*, prior) = E_p*[log e] - log Z from a sampler's draws, means over prompts.

    Weighted draws (guarantee "properly_weighted", or smoothed weights): both by self-normalised
    weights, log Z by their mean; consistent, standard errors by the delta method over independent
    groups of draws. Draws that weigh all the same: E by plain means, log Z as the sampler has it.
    Its error is independent of the draws where the guarantee is "exact", since whether a trial is
    accepted says nothing of which outcome was, and the two errors add up as squares; elsewhere the
    same draws may be behind both, so the errors themselves are added, which is an upper bound. With
    no log Z there is `mean_log_evidence` alone, to which a log Z can be added: `with_log_z`.

    Where draws follow another law than p* (not `of_target`, or the guarantee is "heuristic") the KL
    is the sampler's own, `draws.figures["kl_to_prior"]`, if it has one.

    Nats per completion. Errors are infinite where there is a single group. Raises `EvidenceError`
    for draws of other prompts than the target's.
    """
    at_N = target.prompt_positions(draws.completions).cpu()
    rows = [at_N == at for at in range(len(target.prompts))]
    figures: dict[str, Estimate] = {}
    why = _doubt(draws, rows)
    if any(not _weighs(draws, mine) for mine in rows):
        return Sampled(figures, why or "prompts without a draw of any weight")
    of_target = of_target and draws.guarantee != "heuristic"
    evidence = [draws.log_evidence_N[mine.to(draws.log_evidence_N.device)].cpu() for mine in rows]
    most = most_evidence(evidence, target.max_log_evidence)
    unit = beta_of(target)
    unit = unit if proportional(draws, unit) else 0.0
    tilted = [_stage(draws, mine, bound, unit) for mine, bound in zip(rows, most, strict=True)]
    kind: Kind = "unbiased" if draws.guarantee == "exact" else "consistent"
    figures["mean_reward"] = combine([each[1] for each in tilted], kind)
    if not of_target:
        own = draws.figures.get("kl_to_prior")
        if own is None:
            why = why or "a law of its own, whose KL to the prior is not known"
        elif not why:
            figures["kl_to_prior"] = own
    elif _weighted(draws):
        effective = [_ess(draws, mine) for mine in rows]
        figures["log_z"] = draws.log_z or combine([each[0] for each in tilted], "lower_bound")
        figures["ess"] = combine(effective, "consistent")
        if not why and min(each.value for each in effective) < FEWEST_EFFECTIVE:
            why = f"fewer than {FEWEST_EFFECTIVE:.0f} effective draws of a prompt"
        if not why:
            figures["kl_to_prior"] = combine([each[2] for each in tilted], "consistent")
    else:
        # Where all weigh the same, KL is E[log e] less the log of a mean weight of 1.
        figures["mean_log_evidence"] = combine([each[2] for each in tilted], "consistent")
        if draws.log_z is not None:
            figures["log_z"] = draws.log_z
        if not why and draws.log_z is None:
            why = NO_LOG_Z
        elif not why:
            independent = draws.guarantee == "exact"
            figures = with_log_z(figures, figures["log_z"], independent=independent)
    figures = _with_errors_of_fit(target, draws, rows, figures)
    return Sampled({**figures, **_described(draws, rows)}, why)


NO_LOG_Z = "want of an estimate of log Z"


def with_log_z(
    figures: dict[str, Estimate], log_z: Estimate, *, independent: bool = True
) -> dict[str, Estimate]:
    """The same figures and kl_to_prior = mean_log_evidence - log Z, prompt by prompt.

    `independent`: the draws behind log Z are others, so that the errors add up as squares.
    """

    def less(mean: Estimate, z: Estimate) -> Estimate:
        errors = mean.standard_error, z.standard_error
        error = math.hypot(*errors) if independent else sum(errors)
        return Estimate(mean.value - z.value, error, "consistent", mean.num_draws)

    mean = figures["mean_log_evidence"]
    both = zip(mean.per_prompt or [mean], log_z.per_prompt or [log_z], strict=True)
    return {**figures, "kl_to_prior": combine([less(*each) for each in both], "consistent")}


def _with_errors_of_fit(
    target: Target, draws: Draws, rows: Sequence[Tensor], figures: dict[str, Estimate]
) -> dict[str, Estimate]:
    """With what evidence that was fitted leaves open: the slopes of E_p*[r] and KL(p*, prior) are
    Cov_p*(r, d log e) and Cov_p*(log e, d log e)."""
    errors = target.errors_of_fit(draws.completions)
    if errors is None:
        return figures
    found = dict(figures)
    values = {"mean_reward": draws.reward_N.cpu(), "kl_to_prior": draws.log_evidence_N.cpu()}
    for name in values.keys() & figures.keys():
        change = []
        for mine in rows:
            share_n = draws.log_weight.cpu()[mine].softmax(0)
            on_n = share_n > 0
            value_n, change_nM = values[name][mine][on_n], errors.change_NM[mine][on_n]
            off_n = share_n[on_n] * (value_n - share_n[on_n] @ value_n)
            change.append(off_n @ change_nM)
        found[name] = with_error_of_fit(figures[name], torch.stack(change), shared=errors.shared)
    return found


def _doubt(draws: Draws, rows: Sequence[Tensor]) -> str:
    """Why the draws do not stand for their law."""
    if any(not bool(mine.any()) for mine in rows):
        return "prompts without a draw"
    said = {finding.name for finding in draws.findings}
    return next((words for name, words in _DOUBTS.items() if name in said), "")


def _weighs(draws: Draws, mine: Tensor) -> bool:
    return bool((draws.log_weight.cpu()[mine] > -math.inf).any())


def _weighted(draws: Draws) -> bool:
    """Whether the weights are more than an equal one for all."""
    return draws.guarantee == "properly_weighted" or bool((draws.log_weight != 0).any())


def _stage(
    draws: Draws, mine: Tensor, log_max_evidence: float, unit: float
) -> tuple[Estimate, Estimate, Estimate]:
    """log Z, reward and KL of one prompt; of a single group without an error."""
    groups = int(mine.sum())
    if draws.group_N is not None:
        groups = len(draws.group_N.cpu()[mine].unique())
    if groups > 1:
        weighted = _weighted(draws)
        alone = draws.group_N is None and weighted
        stage = Stage(
            draws, mine, 1.0, log_max_evidence, unit, independent=alone, of_target=not weighted
        )
        summary = stage.at(1.0)
        return summary.log_z, summary.reward, summary.kl
    # The values of two copies are those of one, and the error of one draw cannot be estimated.
    twice = mine.nonzero()[:, 0].repeat(2)
    summary = Stage(replace(draws, group_N=None), twice, 1.0).at(1.0)
    log_z, reward, kl = (
        replace(each, standard_error=math.inf, num_draws=int(mine.sum()))
        for each in (summary.log_z, summary.reward, summary.kl)
    )
    return log_z, reward, kl


def _ess(draws: Draws, mine: Tensor) -> Estimate:
    value = float(ess(draws.log_weight.cpu()[mine]))
    return Estimate(value, math.nan, "consistent", int(mine.sum()))


def _described(draws: Draws, rows: Sequence[Tensor]) -> dict[str, Estimate]:
    """How alike draws of equal weight are, and what the sampler says of its own run."""
    summary = {name: e for name, e in draws.figures.items() if name != "kl_to_prior"}
    effective = summary.pop("effective_draws", None)
    if effective is not None:
        summary["ess"] = effective
    if draws.guarantee == "properly_weighted":
        return summary
    texts = [draws.completions.select(mine.nonzero()[:, 0]) for mine in rows]
    return {
        "unique_fraction": combine([unique_fraction(each) for each in texts], "heuristic"),
        "distinct_2": by_prompt(len(texts), lambda at: distinct_n(texts[at], 2), "heuristic"),
        **summary,
    }
