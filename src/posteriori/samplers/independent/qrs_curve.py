"""What quasi-rejection sampling accepts, and how far from the target that is, for any b."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posteriori.core.estimates import by_prompt, mean
from posteriori.core.numerics import log_mean_exp, variance_of_mean
from posteriori.core.tensors import floats
from posteriori.core.types import Draws, Estimate, Finding, Kind
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError

_RATES = tuple(0.5**k for k in range(10))
BEYOND = Finding(
    "info",
    "no_weight_above_threshold",
    "No weight of the pool is above the threshold: a distance of 0 says only that.",
    "A larger pool may find one.",
)


@dataclass(frozen=True)
class QRSPoint:
    """Acceptance with min(1, w/b): log b of each prompt (nats), the rate at which draws of q are
    accepted, and the distance of what is accepted from the target, TV(p*, p_b) and KL(p*, p_b) in
    nats; each an estimate with one per prompt inside."""

    log_threshold: tuple[float, ...]
    acceptance: Estimate
    tv: Estimate
    kl: Estimate


@named_arguments
def qrs_curve(draws: Draws, log_thresholds: Sequence[float] | None = None) -> tuple[QRSPoint, ...]:
    """What an acceptance rate of quasi-rejection sampling costs in distance from the target.

        p_b ~ min(p~, b q),   rate = Z_b / b,   TV = 1/2 E_q |w/Z - min(w, b)/Z_b|,
        KL = E_q [(w/Z) log max(1, w/b)] + log (Z_b / Z),   Z_b = E_q min(w, b)

    One pool of independent draws of q serves every b. TV and KL are consistent, with delta-method
    standard errors; the rate is unbiased for thresholds that were given. Heavier weights than the
    pool has are not seen: look at its findings too. (Eikema et al. 2022, arXiv 2112.05702, section
    3.)

    Args:
        draws: `posteriori.sample(target, "importance")`, not smoothed.
        log_thresholds: log b in nats, for all prompts; default: ten, at which 1, 1/2, .. 1/512 of
            each prompt's own pool are accepted.

    Returns:
        A `QRSPoint` per threshold: rate, TV, and KL in nats.

    Raises:
        ConfigError: for draws that are no such pool.

    Example:
        >>> pool = po.sample(target, "importance", num_samples=500, seed=0)
        >>> curve = po.qrs_curve(pool)
        >>> curve[0].tv.value > curve[-1].tv.value
        True
    """
    if draws.log_weight_N is not None or bool(draws.log_proposal_N.isnan().any()):
        raise ConfigError(
            "these draws do not weigh p~/q, or their proposal is unknown",
            where="qrs_curve",
            hint='give it po.sample(target, "importance", ...), without smooth',
        )
    prompts = range(len(draws.completions.prompt_set))
    if log_thresholds is not None:
        rows = [torch.full((len(prompts),), b, dtype=torch.float64) for b in log_thresholds]
        return tuple(curve_at(draws, log_b_P, "unbiased") for log_b_P in rows)
    pools = [weights_of_prompt(draws, at) for at in prompts]
    rows = [[threshold_for(pool, rate) for pool in pools] for rate in _RATES]
    return tuple(
        curve_at(draws, torch.tensor(row, dtype=torch.float64), "consistent") for row in rows
    )


def curve_at(pool: Draws, log_b_P: Tensor, kind: Kind) -> QRSPoint:
    """One point, at log b_P; `kind` is that of the acceptance rate."""
    of_prompt = [
        _distances(weights_of_prompt(pool, at), log_b, kind)
        for at, log_b in enumerate(floats(log_b_P))
    ]
    kinds: tuple[Kind, Kind, Kind] = (kind, "consistent", "consistent")
    figures = [
        by_prompt(len(of_prompt), lambda at, which=which: of_prompt[at][which], kinds[which])
        for which in range(3)
    ]
    return QRSPoint(tuple(floats(log_b_P)), *figures)


def _distances(log_w_n: Tensor, log_b: float, kind: Kind) -> tuple[Estimate, Estimate, Estimate]:
    """Rate, TV and KL of one prompt."""
    num, log_z = len(log_w_n), log_mean_exp(log_w_n)
    rate = replace(mean((log_w_n - log_b).clamp(max=0.0).exp()), kind=kind)
    if log_z == -math.inf:
        unknown = Estimate(math.nan, math.inf, "heuristic", num)
        return rate, unknown, unknown
    if not bool((log_w_n > log_b).any()):
        none = Estimate(0.0, 0.0, "consistent", num, (BEYOND,))
        return rate, none, none
    v_n = (log_w_n - log_z).exp()  # w / Z
    capped_n = (log_w_n.clamp(max=log_b) - log_z).exp()
    share = capped_n.mean()  # Z_b / Z
    u_n = capped_n / share  # min(w, b) / Z_b
    gap_n = v_n - u_n
    # Influence of a draw: Z and Z_b are means over the same draws.
    sign_n = gap_n.sign()
    tv_n = (gap_n.abs() - (sign_n * v_n).mean() * v_n + (sign_n * u_n).mean() * u_n) / 2
    lost_n = v_n * (log_w_n - log_b).clamp(min=0.0)
    kl_n = lost_n - lost_n.mean() * v_n + u_n - v_n
    tv, kl = float(gap_n.abs().mean()) / 2, float(lost_n.mean() + share.log())
    return (
        rate,
        Estimate(tv, _error(tv_n), "consistent", num),
        Estimate(kl, _error(kl_n), "consistent", num),
    )


def threshold_for(log_w_n: Tensor, rate: float) -> float:
    """The log b at which mean min(1, w/b) over a pool is `rate`.

    With the weights from the largest down, w_0 >= w_1 .., and S_j = sum of w_i over i >= j, the
    mean is (j + S_j / b) / n for b between w_j and w_(j-1). Where fewer than that have any weight
    at all, the smallest weight there is: no threshold accepts more.
    """
    wanted = rate * len(log_w_n)
    log_w_n = log_w_n[~log_w_n.isneginf()].sort(descending=True).values
    if wanted >= len(log_w_n):
        return float(log_w_n[-1])
    log_rest_n = log_w_n.flip(0).logcumsumexp(0).flip(0)
    accepted_n = torch.arange(len(log_w_n)) + (log_rest_n - log_w_n).exp()  # at b = w_j
    above = int((accepted_n < wanted).sum())
    return float(log_rest_n[above]) - math.log(wanted - above)


def weights_of_prompt(pool: Draws, at: int) -> Tensor:
    """log w of a prompt's draws, on the CPU."""
    return pool.log_weight[pool.completions.prompt_index_N == at].cpu()


def _error(influence_n: Tensor) -> float:
    return math.sqrt(float(variance_of_mean(influence_n)))
