"""From draws to an estimate, and from one estimate per prompt to their mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .numerics import Spread, log_mean_exp, t_factor
from .reliability import missed as missed_error
from .tensors import floats
from .types import Estimate, Kind


def mean(values_n: Tensor, missed: float = 0.0) -> Estimate:
    """The mean of independent draws with its standard error, and the error by what they may have
    `missed` (`reliability.missed_of_mean`).

    Infinite as soon as one value is; an infinity that was seen is certain, so its error is zero.
    """
    value = float(values_n.double().mean())
    if math.isinf(value):
        return Estimate(value, 0.0, "exact", len(values_n))
    error, degrees = Spread.of_means([values_n], missed)
    return Estimate(value, error, "unbiased", len(values_n), degrees_of_freedom=degrees)


def log_mean_weight(
    log_w_N: Tensor,
    kind: Kind = "lower_bound",
    *,
    log_max_weight: float = -math.inf,
    num_draws: int | None = None,
) -> Estimate:
    """log Z-hat = log (1/N) sum_i w_i from N independent weights with E[w] = Z; float64, nats.

    Z-hat is unbiased, so log Z-hat is below log Z in expectation (Jensen). The standard error is
    that of Z-hat relative to it (delta method), and what the draws may have missed
    (`reliability.missed`): as much of the largest weight that was seen, or that there can be
    (`log_max_weight`). It is infinite for a single weight, and where none is above zero: the value
    is -inf then, which says little about Z. Where each weight is the mean of a population,
    `num_draws` is how many draws the populations have together.
    """
    log_w_N = log_w_N.double().cpu()
    num = num_draws or len(log_w_N)
    value = float(log_mean_exp(log_w_N))
    if value == -math.inf or len(log_w_N) < 2:
        return Estimate(value, math.inf, kind, num)
    # A population that weighs more than others has found no more than its own draws.
    own = float(log_w_N.max()) if num_draws is None else value
    more = missed_error(value, max(own, log_max_weight), num)
    relative_N = (log_w_N - value).exp()
    if num_draws is None:
        error, degrees = Spread.of_means([relative_N], more)
    else:
        error, degrees = Spread.of_groups(relative_N, more)
    return Estimate(value, error, kind, num, degrees_of_freedom=degrees)


def at_least_zero(estimate: Estimate) -> Estimate:
    """A figure that is 0 or more by its nature, and each prompt's: what chance takes below 0 is
    given as 0, and is consistent then and no longer unbiased."""

    def one(each: Estimate) -> Estimate:
        if not each.value < 0:
            return each
        return replace(each, value=0.0, kind="consistent" if each.kind == "unbiased" else each.kind)

    return replace(one(estimate), per_prompt=tuple(map(one, estimate.per_prompt)))


def by_prompt(num_prompts: int, estimate: Callable[[int], Estimate], kind: Kind) -> Estimate:
    """`estimate(i)` for every prompt i, and their mean."""
    return combine([estimate(index) for index in range(num_prompts)], kind)


def combine(per_prompt: Sequence[Estimate], kind: Kind) -> Estimate:
    """The mean over prompts.

    `standard_error` = sqrt(sum_c se_c^2) / P: the error for these prompts, whose draws are
    independent. `standard_error_new_prompts` = t s / sqrt(P) with s the spread of the prompts' own
    values: the error if these prompts stand for all that might be asked. It contains the first.
    t is what few prompts add (`t_factor` at P - 1: 6.5 for two prompts, 2.2 for three, 1 from
    thirty on); likewise errors of few draws per prompt are joined by all their degrees of freedom.
    """
    values = [e.value for e in per_prompt]
    num = len(per_prompt)
    degrees_of_each = [e.degrees_of_freedom for e in per_prompt]
    plain = [
        e.standard_error / t_factor(k) for e, k in zip(per_prompt, degrees_of_each, strict=True)
    ]
    error, degrees = Spread.joined(plain, degrees_of_each)
    value = sum(values) / num
    new_prompts = None
    if num > 1 and math.isfinite(value):
        new_prompts, _ = Spread.of_means([torch.tensor(values, dtype=torch.float64)])
    return Estimate(
        value=value,
        standard_error=error / num,
        kind="exact" if all(e.kind == "exact" for e in per_prompt) else kind,
        num_draws=sum(e.num_draws for e in per_prompt),
        per_prompt=tuple(per_prompt),
        standard_error_new_prompts=new_prompts,
        degrees_of_freedom=degrees,
    )


def with_error_of_fit(
    estimate: Estimate, change_PM: Tensor, *, shared: bool | Sequence[bool]
) -> Estimate:
    """The mean over prompts, with what numbers that were fitted to draws leave open in it.

    `change_PM` [P, M] is by how much each prompt's value changes with a standard error along each
    of M independent directions (`core.protocols.ErrorsOfFit`). Errors that prompts share do not
    average out over them; those of their own add up as squares. `shared` is for all directions, or
    one for each. Independent of the draws. A figure of all prompts together has one row.
    """
    if not bool(change_PM.isfinite().all()):
        return estimate
    size_P = change_PM.square().sum(1).sqrt()
    each_M = [shared] * change_PM.shape[1] if isinstance(shared, bool) else shared
    of_all_M = torch.tensor(list(each_M), dtype=torch.bool)
    own_M = change_PM.square().sum(0).sqrt() / len(change_PM)
    mean_M = change_PM.mean(0).where(of_all_M, own_M)
    size = float(mean_M.square().sum().sqrt())
    between = estimate.standard_error_new_prompts
    return replace(
        estimate,
        standard_error=math.hypot(estimate.standard_error, size),
        standard_error_new_prompts=None if between is None else math.hypot(between, size),
        per_prompt=tuple(
            replace(each, standard_error=math.hypot(each.standard_error, own))
            for each, own in zip(
                estimate.per_prompt, floats(size_P), strict=bool(estimate.per_prompt)
            )
        ),
    )


def worst(per_prompt: Sequence[Estimate]) -> Estimate:
    """The largest value over prompts, for a diagnosis that any one prompt can fail. NaN wins."""
    values = torch.tensor([e.value for e in per_prompt], dtype=torch.float64)
    return Estimate(
        value=float(values.max()),
        standard_error=math.nan,
        kind="heuristic",
        num_draws=sum(e.num_draws for e in per_prompt),
        per_prompt=tuple(per_prompt),
    )
