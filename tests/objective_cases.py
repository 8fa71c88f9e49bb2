"""One line an objective: what it must show. The conformance tests run over this table.

`divergence` is what the expected gradient must be the gradient of, by enumeration (None where the
objective declares none). `fit` are the settings of a run on the oracle's cases at beta 0.5 and
`within` the exact KL(pi, p*) that it must end below on every prompt, by case. `hard` says whether
evidence that rules draws out is taken or refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from posteriori.core.registry import find
from posteriori.objectives.base import Objective
from posteriori.samplers.independent.best_of_n_law import best_of_n_log_prob
from posteriori.testing.divergences import (
    Divergence,
    alpha_divergence,
    chi2_from_target,
    chi2_to_target,
    jensen_shannon,
    kl_from_target,
    kl_to_target,
    minus_log_evidence,
    total_variation,
)


def exact_z(objective: Any, world: Any) -> None:
    """The running estimate of Z has converged."""
    objective.running_z.log_sum_P = torch.as_tensor(world.exact.log_z, dtype=torch.float64)
    objective.running_z.count_P = torch.ones(len(world.exact.log_z), dtype=torch.float64)


def any_log_z(objective: Any, world: Any) -> None:
    """It has been set, and is wrong: a baseline may be any number."""
    objective.log_z_P = torch.linspace(0.3, -2.0, len(world.exact.log_z), dtype=torch.float64)


Law = Callable[[Any, int], Tensor]
"""(the exact target, a prompt's position) -> log-probability of each of its outcomes."""


def best_outcomes(exact: Any, at: int) -> Tensor:
    """The prior on the outcomes of largest evidence alone."""
    log_e = exact.log_evidence[at]
    return exact.log_prior[at].masked_fill(log_e < log_e.max(), -torch.inf).log_softmax(0)


def best_of(n: int) -> Law:
    """The outcome of largest evidence among n draws of the prior."""
    return lambda exact, at: best_of_n_log_prob(exact.log_prior[at], exact.log_evidence[at], n)


def preferred(tau: float) -> Law:
    """prior exp(P(preferred to a draw of the prior) / tau), preferences Bradley-Terry in log e."""

    def law(exact: Any, at: int) -> Tensor:
        log_e = exact.log_evidence[at]
        wins = (log_e[:, None] - log_e).sigmoid() @ exact.log_prior[at].exp()
        return (exact.log_prior[at] + wins / tau).log_softmax(0)

    return law


def by_the_token(exact: Any, at: int) -> Tensor:
    """exp(|y| (log e - kappa)), normalised by kappa."""
    log_e, length = exact.log_evidence[at], exact.outcomes[at].lengths_N.double()
    low, high = log_e.min() - 50, log_e.max() + 50
    for _ in range(100):
        kappa = (low + high) / 2
        above = (length * (log_e - kappa)).logsumexp(0) > 0
        low, high = (kappa, high) if above else (low, kappa)
    return (length * (log_e - high)).log_softmax(0)


def preferred_draws(exact: Any, at: int) -> Tensor:
    """The law of the preferred one of two draws of the prior, divided by the length."""
    log_e, length = exact.log_evidence[at], exact.outcomes[at].lengths_N.double()
    wins = (log_e[:, None] - log_e).sigmoid() @ exact.log_prior[at].exp()
    return (exact.log_prior[at] + wins.log() - length.log()).log_softmax(0)


@dataclass(frozen=True)
class ObjectiveCase:
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    divergence: Divergence | None = None
    any_proposal: bool = False
    """The gradient is that of the divergence from any draws, not from the policy's own alone."""
    arrange: Callable[[Any, Any], None] | None = None
    """Puts state that the exactness test assumes (a known log Z) into the objective."""
    fit: dict[str, Any] = field(default_factory=dict)
    within: tuple[float, float] | None = None
    """Exact KL(pi, p*) on every prompt of case_1 and case_2; where `law` says that it ends
    elsewhere, KL(law, pi)."""
    law: Law | None = None
    hard: bool = False
    slow: bool = False
    long: bool = False
    """Conformance runs it by `make test-long`: another case of its family is in every run."""

    def make(self) -> Objective:
        return find("objective", self.name)(**self.settings)

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}({shown})" if shown else self.name


_RUN = {"steps": 400, "num_samples": 16, "learning_rate": 3e-3}
_SLOW = _RUN | {"learning_rate": 2e-3}
_REPLAY = _RUN | {"replay": 10}

_NEAREST = {"steps": 120, "num_samples": 52, "learning_rate": 3e-3, "replay": 10}
_ACCEPTED = _NEAREST | {"replay": 60}
_FEW = {"steps": 60, "num_samples": 4, "learning_rate": 1.5e-3, "replay": 60}
_DPG = {"divergence": kl_from_target, "any_proposal": True, "arrange": exact_z, "hard": True}

CASES = [
    ObjectiveCase(
        "rl",
        divergence=minus_log_evidence,
        any_proposal=True,
        fit=_RUN,
        within=(0.01, 0.01),
        law=best_outcomes,
    ),
    # One prompt a step: a baseline over several is 0.03 nats worse, the spread of their log Z.
    ObjectiveCase(
        "reinforce",
        divergence=kl_to_target,
        any_proposal=True,
        fit=_RUN | {"num_samples": 48, "prompts_per_step": 1},
        within=(0.02, 0.02),
        slow=True,
    ),
    ObjectiveCase(
        "rloo", divergence=kl_to_target, any_proposal=True, fit=_RUN, within=(0.02, 0.02)
    ),
    ObjectiveCase("grpo", divergence=kl_to_target, fit=_SLOW, within=(0.02, 0.02)),
    ObjectiveCase("grpo", {"scale": True}, fit=_SLOW, within=(0.02, 0.02), slow=True),
    ObjectiveCase(
        "grpo", {"epochs": 2}, divergence=kl_to_target, fit=_SLOW, within=(0.02, 0.02), slow=True
    ),
    ObjectiveCase("grpo", {"kl": "k3", "kl_in": "loss", "aggregation": "token_mean"}),
    ObjectiveCase("grpo", {"kl": "k3", "kl_in": "loss", "scale": True}),
    ObjectiveCase("gspo", divergence=kl_to_target, fit=_SLOW, within=(0.02, 0.02), slow=True),
    ObjectiveCase("gspo", {"epochs": 2, "aggregation": "token_mean"}),
    ObjectiveCase("cispo", divergence=kl_to_target, fit=_SLOW, within=(0.02, 0.02), slow=True),
    ObjectiveCase("cispo", {"epochs": 2}),
    ObjectiveCase("ppo", divergence=kl_to_target, fit=_SLOW, within=(0.02, 0.02), slow=True),
    ObjectiveCase("vargrad", divergence=kl_to_target, fit=_RUN, within=(0.02, 0.02), slow=True),
    # Few draws, used often. Worst of seeds 0 to 4: 0.0414 and 0.0397, from 720 draws.
    ObjectiveCase("vargrad", {"epochs": 8}, fit=_FEW, within=(0.06, 0.06), slow=True),
    # The nearest: the same draws used often at first, with noise averaged out as the rate decays.
    ObjectiveCase("vargrad", {"epochs": 4}, fit=_NEAREST, within=(0.005, 0.005), slow=True),
    ObjectiveCase("vargrad", {"proposal": "prior"}, fit=_RUN),
    ObjectiveCase("tb", divergence=kl_to_target, arrange=any_log_z, fit=_RUN, within=(0.02, 0.02)),
    ObjectiveCase("tb", {"proposal": "prior"}, fit=_RUN),
    ObjectiveCase(
        "distil",
        divergence=kl_to_target,
        any_proposal=True,
        fit=_RUN,
        within=(0.02, 0.02),
        slow=True,
    ),
    ObjectiveCase(
        "distil", {"gradient": "token"}, divergence=kl_to_target, any_proposal=True, long=True
    ),
    ObjectiveCase("subtb", fit=_RUN, within=(0.02, 0.02), slow=True),
    ObjectiveCase("subtb", {"decay": 0.8, "epochs": 2}, fit=_SLOW, within=(0.02, 0.02), slow=True),
    ObjectiveCase(
        "a_star_po",
        divergence=kl_to_target,
        arrange=any_log_z,
        fit=_RUN,
        within=(0.02, 0.02),
        slow=True,
    ),
    ObjectiveCase("a_star_po", {"epochs": 2, "log_z_samples": 8}, long=True),
    ObjectiveCase(
        "rebel", divergence=kl_to_target, fit=_RUN, within=(0.02, 0.02), slow=True, long=True
    ),
    ObjectiveCase(
        "rebel", {"eta": 0.5, "epochs": 4}, fit=_FEW, within=(0.06, 0.06), slow=True, long=True
    ),
    ObjectiveCase("rebel", {"kl": False, "proposal": "prior"}, long=True),
    ObjectiveCase("dpg", fit=_RUN, within=(0.02, 0.02), **_DPG),
    ObjectiveCase("dpg", {"proposal": "policy"}, fit=_RUN, within=(0.02, 0.02), **_DPG, slow=True),
    ObjectiveCase("dpg", {"proposal": "prior", "baseline": 0.0}, **_DPG),
    *(
        ObjectiveCase(
            "fdpg",
            settings,
            divergence=divergence,
            any_proposal=True,
            arrange=exact_z,
            # Total variation's gradient is a sign, as large near the target as far from it: what
            # earlier steps drew averages that noise.
            fit=_RUN | {"replay": 4 if settings["divergence"] == "tv" else 0},
            within=within,
            hard=hard,
            slow=True,
        )
        for settings, divergence, within, hard in [
            ({"divergence": "forward_kl"}, kl_from_target, (0.02, 0.02), True),
            ({"divergence": "reverse_kl"}, kl_to_target, (0.02, 0.02), False),
            ({"divergence": "js"}, jensen_shannon, (0.02, 0.02), True),
            ({"divergence": "tv"}, total_variation, (0.02, 0.02), True),
            ({"divergence": "chi2"}, chi2_from_target, (0.02, 0.02), True),
            ({"divergence": "reverse_chi2"}, chi2_to_target, (0.02, 0.02), False),
            ({"divergence": "alpha", "alpha": 0.5}, alpha_divergence(0.5), (0.02, 0.02), True),
            ({"divergence": "alpha", "alpha": -0.5}, alpha_divergence(-0.5), (0.02, 0.02), False),
        ]
    ),
    # By its default learning rate, "auto". What is left is the error of the learned psi: 0.005 and
    # 0.028 after 7,200 draws.
    ObjectiveCase(
        "soft_q", fit={"steps": 150, "num_samples": 16}, within=(0.01, 0.04), hard=True, slow=True
    ),
    ObjectiveCase(
        "rwr",
        divergence=kl_from_target,
        any_proposal=True,
        arrange=exact_z,
        # Draws of the prior alone: a prompt's 6,400 are worth 170 to 260 of the target, and up to
        # a tenth of its mass has never been drawn. 0.009 and 0.016; another seed came to 0.04.
        fit=_SLOW | {"replay": 30},
        within=(0.02, 0.02),
        hard=True,
        slow=True,
    ),
    ObjectiveCase("rwr", {"normaliser": "step", "control_variate": False}, hard=True),
    # Accepted draws are one in a hundred to one in a thousand here, so that 19,200 of the prior
    # leave so few that even the exact likelihood's maximum is tenths of a nat away.
    ObjectiveCase("raft", fit=_RUN, within=(0.5, 0.4), hard=True),
    # Of the policy's own draws, by their chance to be accepted: 0.004 and 0.010.
    ObjectiveCase(
        "raft",
        {"proposal": "policy"},
        fit=_RUN | {"replay": 4},
        within=(0.02, 0.02),
        hard=True,
        slow=True,
    ),
    # By the coin: 0.024 and 0.027, the noise of some 9,000 accepted draws.
    ObjectiveCase(
        "raft",
        {"proposal": "policy", "control_variate": False},
        fit=_ACCEPTED,
        within=(0.04, 0.04),
        hard=True,
        slow=True,
    ),
    # The winners of 400 groups: the noise of so many draws.
    ObjectiveCase(
        "raft",
        {"select": "best_of_n"},
        fit=_RUN,
        within=(0.3, 0.4),
        law=best_of(16),
        hard=True,
        slow=True,
    ),
    ObjectiveCase("dpo", {"beta": 0.3}, fit=_REPLAY, within=(0.02, 0.02), slow=True),
    ObjectiveCase("dpo", {"proposal": "prior", "labels": "sampled"}),
    ObjectiveCase("ipo"),
    ObjectiveCase(
        "ipo",
        {"proposal": "prior", "beta": 1.0},
        fit=_RUN,
        within=(0.01, 0.01),
        law=preferred(1.0),
        slow=True,
    ),
    # The prior is 6 to 12 nats from this law, and its draws are few where that has most mass.
    ObjectiveCase(
        "simpo",
        {"proposal": "prior"},
        fit=_REPLAY,
        within=(0.12, 0.15),
        law=by_the_token,
        slow=True,
        long=True,
    ),
    ObjectiveCase("simpo", {"gamma": 0.5, "labels": "sampled"}, long=True),
    ObjectiveCase(
        "orpo",
        {"proposal": "prior", "beta": 0.0},
        fit=_REPLAY,
        within=(0.04, 0.07),
        law=preferred_draws,
        slow=True,
        long=True,
    ),
    ObjectiveCase("orpo", {"beta": 0.5, "labels": "sampled"}, long=True),
    ObjectiveCase("kto", {"proposal": "prior", "undesirable_weight": 0.5}, hard=True, long=True),
    ObjectiveCase("kto", {"labels": "sampled"}, hard=True, long=True),
]
