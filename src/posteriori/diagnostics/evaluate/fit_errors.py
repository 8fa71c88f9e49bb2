"""What evidence that was fitted to draws leaves open in the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from posteriori.core.estimates import with_error_of_fit
from posteriori.core.protocols import ErrorsOfFit
from posteriori.core.types import Estimate
from posteriori.diagnostics.mixture import Mixture
from posteriori.diagnostics.wasted import wasted

from . import divergences


def with_errors_of_fit(
    figures: Mapping[str, Estimate],
    mixtures: Sequence[Mixture],
    errors: Sequence[ErrorsOfFit],
    rows: Sequence[Sequence[Tensor]],
    unit: float,
) -> dict[str, Estimate]:
    """The figures with, in their errors, half of what they change from one standard error below to
    one above what was fitted (`core.protocols.ErrorsOfFit`), direction by direction.

    `errors` are those of the draws of each side (policy, prior), `rows` each prompt's draws of each
    side. A target's `Moments` say what figures are at the lambda of all outcomes, which draws know
    with an error: that of log Z is the wanted means times lambda's.
    """
    changes: dict[str, list[Tensor]] = {}
    for direction in range(errors[0].change_NM.shape[1]):
        sides = []
        for sign in (1.0, -1.0):
            shifted = [
                mixture.shifted(
                    [
                        sign * side.change_NM[mine, direction]
                        for side, mine in zip(errors, of_prompt, strict=True)
                    ]
                )
                for mixture, of_prompt in zip(mixtures, rows, strict=True)
            ]
            sides.append(_values(shifted, unit))
        above, below = sides
        for name, value_P in above.items():
            changes.setdefault(name, []).append((value_P - below[name]) / 2.0)
    shared = errors[0].shared
    found = dict(figures)
    for name, change in changes.items():
        if name in figures:
            found[name] = with_error_of_fit(
                figures[name], torch.stack(change, dim=1), shared=shared
            )
    return found


def _values(mixtures: Sequence[Mixture], unit: float) -> dict[str, Tensor]:
    """The figures that the evidence has a part in, by prompt [P]; effective_beta [1] of them all.
    Distances are not cut off at 0 here: that would halve what they change."""
    log_z_P = _by_prompt([m.log_z_value for m in mixtures])
    elbo_P = _by_prompt(
        [float((m.policy.log_target_n - m.policy.log_pi_n).mean()) for m in mixtures]
    )
    waste = wasted(mixtures, unit)
    of_mixture = {
        "eubo": divergences.eubo,
        "kl_from_target": divergences.kl_from_target,
        "tv": divergences.total_variation,
        "js": divergences.jensen_shannon,
        "target_entropy": divergences.target_entropy,
        "ess": Mixture.ess,
    }
    return {
        "log_z": log_z_P,
        "log_z_upper": log_z_P,
        "elbo": elbo_P,
        "kl_to_target": log_z_P - elbo_P,
        **{
            name: _by_prompt([estimate(m).value for m in mixtures])
            for name, estimate in of_mixture.items()
        },
        "wasted_nats": _by_prompt([each.value for each in waste.nats.per_prompt]),
        "effective_beta": _by_prompt([waste.beta.value]),
    }


def _by_prompt(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
