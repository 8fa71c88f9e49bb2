"""f-DPG: any f-divergence between policy and target, by its pseudo-reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from posteriori.core.protocols import TrainableLM
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.errors import ConfigError
from posteriori.objectives.running_z import RunningZ
from posteriori.objectives.score_function import (
    AnyProposalConfig,
    ScoreFunction,
    mean_of_others,
    refuse_hard_evidence,
)


class _Kind(NamedTuple):
    """A divergence D = E_p*[f(pi/p*)]: its name, f'(t) given log t, and f' as t goes to infinity,
    where the target is 0."""

    divergence: str
    slope: Callable[[Tensor], Tensor]
    slope_at_infinity: float


def _forward_kl(log_t: Tensor) -> Tensor:
    """f = -log t."""
    return -(-log_t).exp()


def _reverse_kl(log_t: Tensor) -> Tensor:
    """f = t log t."""
    return log_t + 1


def _js(log_t: Tensor) -> Tensor:
    """f = (t log t - (1 + t) log((1 + t) / 2)) / 2."""
    return (math.log(2) + torch.nn.functional.logsigmoid(log_t)) / 2


def _tv(log_t: Tensor) -> Tensor:
    """f = |t - 1| / 2."""
    return log_t.sign() / 2


def _chi2(log_t: Tensor) -> Tensor:
    """f = 1/t - 1."""
    return -(-2 * log_t).exp()


def _reverse_chi2(log_t: Tensor) -> Tensor:
    """f = (t - 1)^2."""
    return 2 * log_t.expm1()


_KINDS = {
    "forward_kl": _Kind("KL(target, policy)", _forward_kl, 0.0),
    "reverse_kl": _Kind("KL(policy, target)", _reverse_kl, math.inf),
    "js": _Kind("JS(policy, target)", _js, math.log(2) / 2),
    "tv": _Kind("TV(policy, target)", _tv, 0.5),
    "chi2": _Kind("chi2(target, policy)", _chi2, 0.0),
    "reverse_chi2": _Kind("chi2(policy, target)", _reverse_chi2, math.inf),
}


def _alpha(alpha: float) -> _Kind:
    """f = (t^(1 - alpha) - 1) / (alpha (alpha - 1))."""

    def slope(log_t: Tensor) -> Tensor:
        return -(-alpha * log_t).exp() / alpha

    divergence = f"D_alpha(target, policy) at alpha = {alpha:g}"
    return _Kind(divergence, slope, 0.0 if alpha > 0 else math.inf)


class FDPGConfig(AnyProposalConfig):
    """Settings of the objective "fdpg".

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        divergence: which D_f(pi, p*) is descended.
        alpha: of "alpha" alone; neither 0 nor 1.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    divergence: Literal["forward_kl", "reverse_kl", "js", "tv", "chi2", "reverse_chi2", "alpha"] = (
        "js"
    )
    alpha: float | None = None


class FDPG(ScoreFunction[FDPGConfig]):
    """grad D_f(pi, p*) = E_pi[f'(t) grad log pi],  D_f = E_p*[f(t)],  t = pi/p* = pi Z/p~.

    Policy gradient with the pseudo-reward -f'(t), less its mean over the prompt's other draws;
    draws of any q count with pi/q, never clipped. `divergence` is one of

    forward_kl    KL(p*, pi)                        -f' = 1/t
    reverse_kl    KL(pi, p*)                        -f' = -log t, `rloo` up to a constant
    js            KL(p*, m)/2 + KL(pi, m)/2         -f' = log((1 + t)/(2t)) / 2;  m = (pi + p*)/2
    tv            sum |pi - p*| / 2                 -f' = sign(1 - t) / 2
    chi2          sum p*^2/pi - 1                   -f' = 1/t^2
    reverse_chi2  sum pi^2/p* - 1                   -f' = -2(t - 1)
    alpha         (sum p*^a pi^(1-a) - 1)/(a(a-1))  -f' = t^-a / a

    with `alpha` = a, not 0 and not 1, whose limits are reverse_kl and forward_kl; a = 2 is half of
    chi2, -1 half of reverse_chi2. The KLs, JS and alpha are in nats; TV is a probability.

    Z(c) is the mean of p~/q over all earlier draws (`RunningZ`). With the exact Z the expected
    gradient is that of D_f(pi, p*). An error of Z-hat moves t by a factor: for forward_kl, chi2,
    alpha and reverse_chi2 it rescales each prompt's gradient, reverse_kl does not see it, js and tv
    are biased until Z-hat has converged.

    Where hard evidence rules a draw out, t is infinite. The slope f' has a limit there (0; log(2)/2
    for js, 1/2 for tv), and the draw counts with it, for all but reverse_kl, reverse_chi2 and
    alpha < 0, which are infinite themselves and raise `ObjectiveError`.

    Source: Go et al. 2023, arXiv 2302.08215, theorem 1 and table 1.
    """

    name = "fdpg"

    Settings = FDPGConfig

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        chosen, alpha = self.settings.divergence, self.settings.alpha
        if chosen != "alpha" and alpha is not None:
            raise ConfigError(f"alpha is for divergence = 'alpha', and it is '{chosen}'")
        if chosen == "alpha" and alpha in (None, 0.0, 1.0):
            raise ConfigError(
                f"divergence = 'alpha' with alpha = {alpha}",
                hint="give alpha a number; 1 is divergence = 'forward_kl', and 0 'reverse_kl'",
            )
        self._kind = _KINDS[chosen] if alpha is None else _alpha(alpha)
        self.divergence = self._kind.divergence

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        self.running_z = RunningZ(target)

    def advantage(self, draws: Draws, log_prob_N: Tensor) -> Tensor:
        at_infinity = self._kind.slope_at_infinity
        if math.isinf(at_infinity):
            refuse_hard_evidence(draws, f"'fdpg' minimises {self.divergence}, which is infinite")
        ruled_out_N = draws.log_evidence_N.isneginf()
        log_t_N = log_prob_N + self.running_z.before(draws)
        log_t_N = log_t_N - (draws.log_prior_N + draws.log_evidence_N)
        slope_N = self._kind.slope(log_t_N.masked_fill(ruled_out_N, 0.0))
        gain_N = -slope_N.masked_fill(ruled_out_N, at_infinity)
        prompt_N = draws.completions.prompt_index_N
        return gain_N - mean_of_others(gain_N, prompt_N, objective=self.name)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        self.running_z.add(draws)
        return super().observe(draws, log_prob_N) | self.running_z.figures(draws)
