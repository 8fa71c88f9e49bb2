"""The figures as sums over every outcome of one prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.diagnostics.nearest_posterior import Tilt
from posteriori.diagnostics.quantiles import QUANTILES, exact_quantile


def of_posterior(
    log_pi: Tensor, log_star: Tensor, log_z: float, num_samples: int
) -> dict[str, float]:
    """What relates the policy to the target; all [n], nats."""
    kl_to_target, kl_from_target = _kl(log_pi, log_star), _kl(log_star, log_pi)
    log_middle = torch.logaddexp(log_pi, log_star) - math.log(2.0)
    return {
        "log_z": log_z,
        "elbo": log_z - kl_to_target,
        "eubo": log_z + kl_from_target,
        "kl_to_target": kl_to_target,
        "kl_from_target": kl_from_target,
        "tv": 0.5 * float((log_pi.exp() - log_star.exp()).abs().sum()),
        "js": 0.5 * (_kl(log_pi, log_middle) + _kl(log_star, log_middle)),
        "ess": num_samples * math.exp(-_log_second_moment(log_star, log_pi)),
        "target_entropy": -_sum(log_star.exp(), log_star),
    }


def of_policy(
    log_pi: Tensor, log_prior: Tensor, reward: Tensor, outcomes: Completions
) -> dict[str, float]:
    """What the policy is, whatever the target; all [n]."""
    pi = log_pi.exp()
    length, cut = outcomes.lengths_N.cpu().double(), outcomes.truncated_N.cpu().double()
    return {
        "kl_to_prior": _kl(log_pi, log_prior),
        "entropy": -_sum(pi, log_pi),
        "mean_reward": _sum(pi, reward),
        "perplexity": math.exp(-_sum(pi, log_prior) / _sum(pi, length)),
        "truncated": _sum(pi, cut),
        **{name: exact_quantile(reward, pi, level) for name, level in QUANTILES.items()},
    }


def nearest_posterior(
    log_pi: Sequence[Tensor], log_prior: Sequence[Tensor], log_evidence: Sequence[Tensor]
) -> tuple[float, list[float]]:
    """t >= 0 of the least mean over prompts of KL(pi, p*_t), p*_t ~ prior e^t, and each prompt's
    KL there. What the evidence rules out is ruled out for every t > 0: where the policy keeps to
    that, t = 0 stands for the limit, and otherwise for the prior."""
    of_policy = [_sum(p.exp(), e) for p, e in zip(log_pi, log_evidence, strict=True)]
    t = Tilt(log_prior, log_evidence, sum(of_policy) / len(of_policy)).nearest()
    breaks = -math.inf in of_policy
    nats = []
    for log_p, log_prior_n, log_e_n in zip(log_pi, log_prior, log_evidence, strict=True):
        log_tilted = log_prior_n if breaks else _tilted(log_prior_n, log_e_n, t)
        nats.append(_kl(log_p, log_tilted - log_tilted.logsumexp(0)))
    return t, nats


def _tilted(log_prior: Tensor, log_e: Tensor, t: float) -> Tensor:
    """log prior + t log e, unnormalised; for t -> infinity the prior where log e is largest."""
    if math.isinf(t):
        return log_prior.masked_fill(log_e < log_e[~log_prior.isneginf()].max(), -math.inf)
    return (log_prior + t * log_e).masked_fill(log_e.isneginf(), -math.inf)


def _kl(log_p: Tensor, log_q: Tensor) -> float:
    """KL(p, q) = sum p (log p - log q), with 0 log 0 = 0 and +inf where q misses mass of p."""
    on = log_p.exp() > 0
    return float((log_p[on].exp() * (log_p[on] - log_q[on])).sum())


def _sum(weight: Tensor, value: Tensor) -> float:
    """sum w v over the outcomes that have any weight."""
    on = weight > 0
    return float((weight[on] * value[on]).sum())


def _log_second_moment(log_star: Tensor, log_pi: Tensor) -> float:
    """log E_pi[(p*/pi)^2] = log(1 + chi^2(p*, pi))."""
    on = log_star > -math.inf
    return float((2 * log_star[on] - log_pi[on]).logsumexp(0))
