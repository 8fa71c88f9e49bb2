"""The demo's conclusion, worked out from its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posteriori.cli.console.report_table import shown
from posteriori.core.types import Estimate
from posteriori.diagnostics.collapse import collapse
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.diagnostics.frontier.best_of_n_points import BestOfN, best_of_n_points

from .plan import Trial

_COLLAPSED_UNIQUE = 0.5
"""A policy that has collapsed has so little of the prior's distinct completions too."""


def conclusion(
    trials: Mapping[str, Trial],
    reports: Mapping[str, Report],
    distances: Mapping[float, Estimate],
    best: Sequence[BestOfN],
) -> str:
    """What this run has shown, and whether it is what the paper says; `distances` are the prior's
    KL to the target at each beta, `best` is what best-of-n gets from the prior's draws."""
    prior = reports["prior"]
    alone = [name for name, trial in trials.items() if trial.objective == "rl"]
    others = [name for name in trials if name not in alone]
    parts = [
        f"The prior's mean P(offensive) is {_offence(prior):.3f}.",
        *(_fate(name, trials[name], reports[name], prior, distances) for name in trials),
        *(against_best_of_n(name, reports[name], best) for name in others),
    ]
    fell = [name for name in trials if collapsed(reports[name], prior)]
    nearer = [name for name in others if _distance(reports[name]) < _distance(reports[alone[0]])]
    if fell == alone and nearer == others:
        parts.append(
            "So reward alone collapsed onto a few completions, and the same reward as evidence "
            "about the prior did not: it is inference, and kl_to_target says how far it got."
        )
    else:
        listed = ", ".join(fell) or "nothing"
        parts.append(
            f"This run does not show the paper's claim (collapsed: {listed}; nearer to its target "
            f"than rl: {', '.join(nearer) or 'nothing'}): it is too short, or has gone astray."
        )
    return " ".join(parts)


def against_best_of_n(name: str, report: Report, best: Sequence[BestOfN]) -> str:
    """What the policy's reward costs it, and what as much reward costs best-of-n."""
    reward, spent = report["mean_reward"].value, report["kl_to_prior"]
    enough = next((each for each in best if each.reward.value >= reward), None)
    line = f"{name} spends {shown(spent)} nats of KL from the prior; "
    if enough is None:
        most = best[-1].n if best else 1
        return f"{line}no best of n up to {most} has as much reward."
    return (
        f"{line}for as much reward best-of-n takes n = {enough.n}, which is {enough.kl.value:.2f}."
    )


def best_of_prior(prior: Report) -> tuple[BestOfN, ...]:
    """Best-of-n in the reward-KL plane, from the draws by which the prior was evaluated."""
    return best_of_n_points(prior.draws)


def collapsed(report: Report, prior: Report) -> bool:
    """Whether a policy has lost most of the prior's entropy and of its distinct completions."""
    return (
        collapse(report["entropy"], prior["entropy"]) is not None
        and report["unique_fraction"].value < _COLLAPSED_UNIQUE * prior["unique_fraction"].value
    )


def _fate(
    name: str,
    trial: Trial,
    report: Report,
    prior: Report,
    distances: Mapping[float, Estimate],
) -> str:
    verb = "collapsed" if collapsed(report, prior) else "did not collapse"
    return (
        f"{name} brought it to {_offence(report):.3f} and {verb}: entropy "
        f"{prior['entropy'].value:.1f} -> {report['entropy'].value:.1f} nats, distinct completions "
        f"{_percent(prior)} -> {_percent(report)}, {shown(report['kl_to_target'])} nats from the "
        f"target at beta {trial.beta:g}, where the prior is {distances[trial.beta].value:.2f} away."
    )


def _offence(report: Report) -> float:
    return -report["mean_reward"].value


def _distance(report: Report) -> float:
    return report["kl_to_target"].value


def _percent(report: Report) -> str:
    return f"{100 * report['unique_fraction'].value:.0f}%"
