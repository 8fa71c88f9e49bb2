"""Over-optimisation foretold: where more reward by the model stops being more of what is wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.core.draw import draw
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.tensors import floats
from posteriori.core.types import Draws, Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count, in_short
from posteriori.errors import ConfigError
from posteriori.evidence.preferences import Preferences

_POINTS = 60
"""Strengths of the evidence that are looked at."""

_FEWEST = 30
"""Effective draws of a prompt below which the curve ends."""


@dataclass(frozen=True)
class TurningPoint:
    """Where the wanted reward is foretold to turn, along the posteriors p*_beta of a reward model.

    Args:
        kl: KL(p*_beta, prior) at the turning point, nats: the median over what the reward may be.
        kl_interval: in which it lies with probability `confidence`.
        beta: of the median.
        beta_interval: of the interval's ends, the smaller beta first.
        turns: the probability that it turns before the curve ends. Where it does not, the end
            stands for the turning point.
        confidence: of the intervals.
        curve: (beta, KL, mean of the wanted reward, its lower end, its upper end) point by point,
            rewards as gains over the prior, in units of the reward model.
        findings: what there is to say of it.

    Example:
        >>> cheer = po.Target(prior, po.Preferences(composition, beta=1.0), ["x", "y"], 3)
        >>> turn = po.turning_point(cheer, num_samples=200, seed=0)
        >>> turn.kl_interval[0] <= turn.kl <= turn.kl_interval[1]
        True
    """

    kl: float
    kl_interval: tuple[float, float]
    beta: float
    beta_interval: tuple[float, float]
    turns: float
    confidence: float
    curve: tuple[tuple[float, float, float, float, float], ...]
    findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        low, high = self.kl_interval
        return (
            f"TurningPoint(KL {self.kl:.3g} nats, {low:.3g} to {high:.3g} with "
            f"{self.confidence:.0%}; beta {self.beta:.3g}; turns with probability {self.turns:.2f})"
        )


@named_arguments
def turning_point(
    target: Target,
    num_samples: int = 2000,
    seed: int = 0,
    *,
    num_worlds: int = 1000,
    confidence: float = 0.95,
) -> TurningPoint:
    """Before any training: how far to follow a reward model until what is wanted turns down.

        u ~ p(r | pairs),   turn(u) = argmax over beta of E_p*_beta[u],
        p*_beta = prior exp(r / beta) / Z with r the reward model as the target uses it

    A policy that follows the model's mean goes where the model is wrong as well as where it is
    right, and the reward that is wanted, u, rises and falls (Gao, Schulman and Hilton 2022, arXiv
    2210.10760). u is not known, but the posterior of the head says what it may be: each draw of it
    is a world with a turning point of its own, by the same draws of the prior, whose own chance is
    in too (a Bayesian bootstrap per world). The interval is as good as that posterior: features
    that the backbone does not have are in no world. (That the limits of alignment are known from
    draws of the base model: arXiv 2605.07105.)

    Args:
        target: with one `Preferences`, whose model knows its uncertainty; other evidence stays.
        num_samples: draws of the prior per prompt.
        seed: of draws and worlds.
        num_worlds: draws of the reward.
        confidence: of the intervals.

    Returns:
        A `TurningPoint`: in KL and beta, with intervals, and the curve.

    Raises:
        ConfigError: for a target without such `Preferences`, or a number out of its range.

    Example:
        >>> cheer = po.Target(prior, po.Preferences(composition, beta=1.0), ["x", "y"], 3)
        >>> len(po.turning_point(cheer, num_samples=200, seed=0).curve) > 1
        True
    """
    count(num_samples, "num_samples", 2 * _FEWEST, where="turning_point")
    count(num_worlds, "num_worlds", 20, where="turning_point")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(
            f"confidence={in_short(confidence)} must lie between 0 and 1", where="turning_point"
        )
    evidence = _preferences(target)
    rest = Target(
        target.prior,
        [each for each in target.evidence if each is not evidence],
        target.prompts,
        target.max_new_tokens,
        target.columns,
    )
    draws = draw(rest, target.prior, num_samples, generator(seed, "turning point"))
    worlds = _Worlds(evidence, draws, num_worlds, seed)
    spread = float(worlds.score_N.std())
    if not spread > 0:
        raise ConfigError(
            "the reward model gives all draws the same reward",
            where="turning_point",
            hint="train it on more pairs, or draw more",
        )
    betas = [spread / strength for strength in torch.logspace(-1.5, 2, _POINTS).tolist()]
    kl, gains = [0.0], [torch.zeros(num_worlds, dtype=torch.float64)]
    reached = [math.inf]
    base_K = worlds.gold(math.inf)[1]
    for beta in betas:
        at, gold_K, fewest = worlds.gold(beta)
        if fewest < _FEWEST:
            break
        kl.append(at)
        gains.append(gold_K - base_K)
        reached.append(beta)
    return _summed_up(torch.tensor(kl), torch.stack(gains), reached, confidence)


def _preferences(target: Target) -> Preferences:
    found = [each for each in target.evidence if isinstance(each, Preferences)]
    if len(found) != 1:
        raise ConfigError(
            f"the target has {len(found)} Preferences, and it has to be one",
            where="turning_point",
            hint="make a target with the reward model that is to be followed",
        )
    found[0].model.posterior.check("marginal")
    return found[0]


class _Worlds:
    """Draws of the prior, and what each of K worlds says they are worth."""

    def __init__(self, evidence: Preferences, draws: Draws, num: int, seed: int) -> None:
        self.evidence = evidence
        self.rows = rows_of_prompts(draws.completions)
        self.log_rest_N = draws.log_weight.cpu()
        completions = draws.completions
        self.feature_ND = evidence.features(completions)
        self.reference_ND = evidence.reference(completions)
        posterior = evidence.model.posterior
        stream = generator(seed, "worlds")
        off_ND = self.feature_ND - self.reference_ND
        if posterior.root_DD is not None:
            size = (posterior.root_DD.shape[1], num)
            off_NK = off_ND @ (
                posterior.root_DD @ torch.randn(size, dtype=torch.float64, generator=stream)
            )
        else:
            assert posterior.deviation_KD is not None, "it has been checked"
            # Members spread as their worlds do: a Gaussian with their covariance.
            members = len(posterior.deviation_KD)
            mixed_MK = torch.randn((members, num), dtype=torch.float64, generator=stream)
            off_NK = off_ND @ posterior.deviation_KD.T @ mixed_MK / math.sqrt(members - 1)
        self.score_N = posterior.mean(self.feature_ND)
        self.gold_NK = self.score_N[:, None] + off_NK
        exponential_NK = torch.rand(self.gold_NK.shape, dtype=torch.float64, generator=stream)
        self.count_NK = -torch.log1p(-exponential_NK)

    def gold(self, beta: float) -> tuple[float, Tensor, float]:
        """KL(p*_beta, prior x the rest), E[u] of each world [K], both means over prompts; and the
        fewest effective draws of a prompt."""
        log_e_N = torch.zeros_like(self.log_rest_N)
        if math.isfinite(beta):
            log_e_N = self.evidence.model.posterior.log_evidence(
                self.feature_ND,
                beta * self.evidence.scale,
                self.evidence.uncertainty,
                self.evidence.kappa,
                self.reference_ND,
            )
        kls, golds, effective = [], [], []
        for rows_n in self.rows:
            before_n = self.log_rest_N[rows_n].log_softmax(0)
            after_n = (self.log_rest_N + log_e_N)[rows_n].log_softmax(0)
            w_n = after_n.exp()
            kls.append(float((w_n * (after_n - before_n)).nansum()))
            effective.append(1.0 / float(w_n.square().sum()))
            counted_nK = w_n[:, None] * self.count_NK[rows_n]
            golds.append((counted_nK * self.gold_NK[rows_n]).sum(0) / counted_nK.sum(0))
        return sum(kls) / len(kls), torch.stack(golds).mean(0), min(effective)


def _summed_up(
    kl_G: Tensor, gain_GK: Tensor, betas: list[float], confidence: float
) -> TurningPoint:
    at_K = gain_GK.argmax(0)
    last = len(betas) - 1
    tail = (1.0 - confidence) / 2.0
    level = torch.tensor([tail, 0.5, 1.0 - tail], dtype=torch.float64)
    low, middle, high = (
        int(each) for each in at_K.double().quantile(level, interpolation="nearest")
    )
    turns = float((at_K < last).double().mean())
    ends_3G = gain_GK.quantile(level[[0, 2]], dim=1)
    mean_G = gain_GK.mean(1)
    curve = zip(betas, floats(kl_G), floats(mean_G), *map(floats, ends_3G), strict=True)
    findings = (
        Finding(
            "info",
            "turns_beyond_the_draws",
            f"in {1 - turns:.0%} of what the reward may be it does not turn before "
            f"{float(kl_G[last]):.3g} nats, where the draws of the prior end.",
            "Raise num_samples to look further.",
        ),
    )
    return TurningPoint(
        float(kl_G[middle]),
        (float(kl_G[low]), float(kl_G[high])),
        betas[middle],
        (betas[high], betas[low]),
        turns,
        confidence,
        tuple(curve),
        findings if turns < 1.0 else (),
    )
