"""A sampler's draws are what its guarantee says, by many short runs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from posteriori.core.types import Draws
from posteriori.errors import ConfigError
from posteriori.samplers.base import Sampler
from posteriori.samplers.sample import sample

from .cases import Case, table_case
from .failures import CheckFailedError

FALSE_ALARM = 1e-6
"""The probability that a right sampler fails, all of a call's comparisons together."""


@dataclass(frozen=True)
class Weighting:
    """What a check of a sampler has seen: the largest |z| among its comparisons, the |z| that
    fails, and the smallest shift, as a share of Z, that it would have caught all but surely."""

    largest: float
    limit: float
    caught: float


def check_sampler(
    sampler: str | Sampler,
    *,
    case: Case | None = None,
    num_samples: int = 1000,
    replicates: int = 100,
    shift: float = 0.1,
    seed: int = 0,
    **settings: Any,
) -> Weighting:
    """A sampler's weights are proper, by z-tests over independent runs.

        E[mean over the draws of w 1(y)] = p~(y) for every outcome y,   E[Z-hat] = Z

    For a sampler that says "exact" the first is p*(y). A right sampler fails once in a million
    calls. Draws within a run may depend on each other as they like: only runs are compared.

    Args:
        sampler: a `Sampler`, or a name with its `settings`.
        case: the target and the proposal; default `table_case()`.
        num_samples: draws per prompt of one run.
        replicates: runs, each of its own seed.
        shift: as a share of Z, how far off an outcome's mean weight may be at most without being
            caught; a check that sees less is refused.
        seed: of the first run.
        settings: of the sampler.

    Returns:
        The largest t-statistic, its limit, and the least shift that would be caught.

    Raises:
        CheckFailedError: the weights are not proper, or the run is not a function of its seed.
        ConfigError: for a sampler without a guarantee that draws could show ("asymptotic": check
            its kernel by `check_kernel`; "heuristic"), and for too few replicates.

    Example:
        >>> from posteriori import testing
        >>> seen = testing.check_sampler("importance")
        >>> seen.largest < seen.limit, seen.caught < 0.1
        (True, True)
    """
    case = case or table_case()

    def run(number: int) -> Draws:
        return sample(
            case.target, sampler, num_samples, case.proposal, seed=seed + number, **settings
        )

    first = run(0)
    if first.guarantee not in ("exact", "properly_weighted"):
        raise ConfigError(
            f"a sampler that says {first.guarantee!r} says nothing that some draws could show",
            where=f"sampler {sampler!r}",
            hint="check the kernel of an MCMC sampler: testing.check_kernel",
        )
    draws = [first, *(run(number) for number in range(1, replicates))]
    if not torch.equal(run(0).log_weight, first.log_weight):
        raise CheckFailedError("the same seed gave other draws the second time", where=str(sampler))
    found_RK, wanted_K, z_K = _compared(draws, case)
    mean_K, error_K = found_RK.mean(0), found_RK.std(0) / replicates**0.5
    limit = float(stats.t.isf(FALSE_ALARM / 2 / len(wanted_K), replicates - 1))
    caught = float((2 * limit * error_K / z_K).max())
    if caught > shift:
        raise ConfigError(
            f"{replicates} runs of {num_samples} draws would show a shift of {caught:.2g} of Z at "
            f"the least, and are to show {shift:g}",
            hint=f"give replicates={int(replicates * (caught / shift) ** 2) + 1}",
        )
    gap_K = mean_K - wanted_K
    rounding_K = 1e-9 * (1 + wanted_K.abs())
    score_K = torch.where(gap_K.abs() <= rounding_K, 0.0, gap_K / error_K)
    largest = int(score_K.abs().argmax())
    if not float(score_K[largest].abs()) <= limit:
        raise CheckFailedError(
            f"the draws are not what '{first.guarantee}' says: {_named(largest, case)} has a mean "
            f"of {float(mean_K[largest]):.4g} ± {float(error_K[largest]):.2g}, and should have "
            f"{float(wanted_K[largest]):.4g} (|z| = {float(score_K[largest].abs()):.1f}, limit "
            f"{limit:.1f})",
            where=f"sampler {sampler!r}",
        )
    return Weighting(float(score_K[largest].abs()), limit, caught)


def _compared(draws: list[Draws], case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Run by run what is compared [R, K], what it should be [K], and its scale [K]: the weight of
    each outcome of each prompt, and then Z-hat of each, where there is one."""
    is_exact = draws[0].guarantee == "exact"
    z_P = torch.from_numpy(case.exact.log_z).exp()
    found, wanted, scale = [], [], []
    for at, outcomes in enumerate(case.exact.outcomes):
        place = {tuple(ids): number for number, ids in enumerate(outcomes.completion_ids)}
        found.append(torch.stack([_weights(each, at, place, is_exact=is_exact) for each in draws]))
        law = case.exact.log_posterior[at].exp()
        wanted.append(law if is_exact else law * z_P[at])
        scale.append(torch.full_like(law, 1.0 if is_exact else float(z_P[at])))
    if draws[0].log_z is not None and draws[0].log_z.per_prompt is not None:
        log_z_RP = [torch.tensor([e.value for e in each.log_z.per_prompt]) for each in draws]  # pyright: ignore[reportOptionalMemberAccess, reportOptionalIterable]
        found.append(torch.stack(log_z_RP).double().exp())
        wanted.append(z_P)
        scale.append(z_P)
    return torch.cat(found, dim=1), torch.cat(wanted), torch.cat(scale)


def _weights(
    draws: Draws, prompt: int, place: dict[tuple[int, ...], int], *, is_exact: bool
) -> Tensor:
    """The mean of w 1(y) over a prompt's draws, for every outcome y."""
    rows = (draws.completions.prompt_index_N == prompt).nonzero()[:, 0]
    its_own = draws.select(rows)
    at_n = torch.tensor([place[tuple(ids)] for ids in its_own.completion_ids])
    weight_n = torch.ones(len(rows), dtype=torch.float64) if is_exact else its_own.log_weight.exp()
    sums = torch.zeros(len(place), dtype=torch.float64)
    return sums.index_add_(0, at_n, weight_n / len(rows))


def _named(number: int, case: Case) -> str:
    for at, outcomes in enumerate(case.exact.outcomes):
        if number < len(outcomes):
            text = outcomes.texts[number]
            return f"outcome {text!r} of prompt {case.target.prompts[at]!r}"
        number -= len(outcomes)
    return f"Z-hat of prompt {case.target.prompts[number]!r}"
