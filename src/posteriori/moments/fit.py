"""Fitting lambda of `Moments`: over all outcomes, or over draws that move towards the target."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.cost import counted
from posteriori.core.draw import draw
from posteriori.core.estimates import combine
from posteriori.core.protocols import LanguageModel, SteppingLM
from posteriori.core.registry import find
from posteriori.core.run.progress import Progress
from posteriori.core.seeds import derive, generator
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws, Estimate, Kind
from posteriori.diagnostics.exact.exact import count_outcomes, exact
from posteriori.errors import SamplingError
from posteriori.samplers.base import Sampler
from posteriori.samplers.sample import sample

from .checks import (
    check_features,
    check_reachable,
    findings_of_lambda,
    prompts_complete,
    prompts_covered,
)
from .dual import Dual
from .fitted_moments import FittedMoments
from .tilt import Tilt, feature_values

if TYPE_CHECKING:
    from .moments import Moments

_FEW_OUTCOMES = 20_000
"""Up to so many, over all prompts, "auto" enumerates."""

_MOST_ROUNDS = 10

_KEPT, _KEPT_OF_ONE = 0.5, 0.1
"""A step towards lambda may cost half of the effective draws, or half of a feature's spread, and
nine tenths of the effective draws of one prompt."""

_MOST_WHOLE = 3
"""So many rounds in a row, each all the way to lambda, that do not arrive: more would not either.
The sampler cannot do better, or features that the draws of a prompt do not show cannot come there.
"""

_POPULATIONS = 16
"""Independent ones a prompt, which the standard error of lambda is over."""

_log = logging.getLogger("posteriori")


def fitted(
    moments: Moments,
    sampler: str | Sampler | None = None,
    proposal: LanguageModel | None = None,
    on_progress: Progress | None = None,
) -> FittedMoments:
    """lambda of moments that know their target; a log line reports it."""
    target = moments.own_target
    others = [each for each in target.evidence if each is not moments]
    rest = Target(target.prior, others, target.prompts, target.max_new_tokens, target.columns)
    if _enumerates(moments, target):
        found = _over_outcomes(moments, rest)
    else:
        proposal = proposal or target.prior
        made = sampler or _sampler(target.prior, proposal)
        found = _over_draws(moments, rest, made, proposal, on_progress)
    for name, value in found.lambda_.items():
        _log.info("moment '%s' = %g: lambda = %s", name, moments.wanted[name], value)
    for finding in found.findings:
        _log.warning("%s", finding)
    return found


def _sampler(prior: LanguageModel, proposal: LanguageModel) -> Sampler:
    """Of those that are properly weighted, the one that sees a feature grow along the text."""
    if isinstance(prior, SteppingLM) and isinstance(proposal, SteppingLM):
        return find("sampler", "smc")(twist="evidence", replicates=_POPULATIONS)
    return find("sampler", "annealed")()


def _enumerates(moments: Moments, target: Target) -> bool:
    lm = target.prior
    count = count_outcomes(lm.vocab_size, len(lm.eos_token_ids), target.max_new_tokens)
    few = count * len(target.prompts) <= _FEW_OUTCOMES
    return moments.method == "enumerate" or (moments.method == "auto" and few)


def _over_outcomes(moments: Moments, rest: Target) -> FittedMoments:
    with counted() as spent:
        everything = exact(rest)
    log_p_PN = torch.stack(
        [a + b for a, b in zip(everything.log_prior, everything.log_evidence, strict=True)]
    )
    phi_NK = torch.cat([_features(moments, rest, each) for each in everything.outcomes])
    duals = _duals(moments, log_p_PN, phi_NK)
    for where, dual in _named(moments, duals):
        check_features(dual, list(moments.features), where, "outcomes")
        check_reachable(dual, list(moments.features), where, "outcomes")
    lambda_PK = torch.stack([dual.minimum() for dual in duals])
    num = log_p_PN.numel()
    return FittedMoments(
        _estimates(moments, lambda_PK, torch.zeros_like(lambda_PK), "exact", num),
        lambda_PK,
        "enumerate",
        num_draws=num,
        effective_draws=torch.nan,
        pareto_k=torch.nan,
        rounds=0,
        findings=(),
        cost=spent.cost + Cost(evidence_calls=num),
    )


@dataclass(frozen=True)
class _Step:
    """From where the draws are: how far lambda goes, whether it has arrived there, and whether it
    goes all the way though not: then draws at lambda itself are the best that there can be."""

    lambda_K: Tensor
    arrives: bool
    whole: bool = False


def _over_draws(
    moments: Moments,
    rest: Target,
    sampler: str | Sampler,
    proposal: LanguageModel,
    on_progress: Progress | None,
) -> FittedMoments:
    rows, names = len(rest.prompts) if moments.per_prompt else 1, list(moments.features)
    at_PK = torch.zeros(rows, len(names), dtype=torch.float64)
    whole = 0
    seeded = generator(moments.seed, "moments")
    draws = draw(rest, proposal, moments.num_samples, seeded, on_progress=on_progress)
    cost, rounds = draws.cost, 1
    while True:
        duals = _duals_of_draws(moments, rest, draws, at_PK)
        for where, dual in _named(moments, duals):
            check_features(dual, names, where, "draws", moved=rounds > 1)
        steps = [_step(dual) for dual in duals]
        whole = whole + 1 if all(step.arrives or step.whole for step in steps) else 0
        arrived = all(step.arrives for step in steps)
        if arrived or whole == _MOST_WHOLE or rounds == _MOST_ROUNDS:
            break
        at_PK = at_PK + torch.stack([step.lambda_K for step in steps])
        rounds += 1
        _log.info("moments: the draws do not reach, round %d of at most %d", rounds, _MOST_ROUNDS)
        tilt = Tilt(moments.features, at_PK, rest.prompts if moments.per_prompt else None)
        there = Target(
            rest.prior, [*rest.evidence, tilt], rest.prompts, rest.max_new_tokens, rest.columns
        )
        seed = derive(moments.seed, "moments", rounds)
        draws = sample(there, sampler, moments.num_samples, proposal, seed, on_progress=on_progress)
        cost += draws.cost
    for where, dual in _named(moments, duals):
        check_reachable(dual, names, where, "draws")
    off = [dual.minimum() for dual in duals]
    lambda_PK = at_PK + torch.stack(off)
    error_PK = torch.stack([dual.sandwich(x) for dual, x in zip(duals, off, strict=True)])
    findings = [
        finding
        for at, (where, dual) in enumerate(_named(moments, duals))
        for finding in findings_of_lambda(
            dual,
            off[at],
            error_PK[at],
            dict(zip(names, lambda_PK[at].tolist(), strict=True)),
            where,
            rest.prompts[at : at + 1] if moments.per_prompt else rest.prompts,
        )
    ]
    return FittedMoments(
        _estimates(moments, lambda_PK, error_PK, "consistent", len(draws)),
        lambda_PK,
        "draws",
        num_draws=len(draws),
        effective_draws=sum(float(d.effective(x).sum()) for d, x in zip(duals, off, strict=True)),
        pareto_k=max(k for d, x in zip(duals, off, strict=True) for k in d.pareto_k(x)),
        rounds=rounds,
        findings=tuple(findings),
        cost=cost,
        covariance_PKK=torch.stack(
            [dual.uncertainty(x) for dual, x in zip(duals, off, strict=True)]
        ),
    )


def _step(dual: Dual) -> _Step:
    attainable = dual.attainable()
    minimum_K = dual.minimum(ridge=not attainable)
    covered = attainable and all(prompts_covered(dual, minimum_K))
    if covered and all(prompts_complete(dual, minimum_K)):
        return _Step(minimum_K, arrives=True)
    effective_P, spread_K = dual.effective(torch.zeros_like(minimum_K)), dual.scale()
    lambda_K = minimum_K
    while _costs_too_much(dual, lambda_K, effective_P, spread_K):
        lambda_K = 0.7 * lambda_K
    return _Step(lambda_K, arrives=False, whole=attainable and torch.equal(lambda_K, minimum_K))


def _costs_too_much(dual: Dual, lambda_K: Tensor, effective_P: Tensor, spread_K: Tensor) -> bool:
    now_P = dual.effective(lambda_K)
    return (
        bool(now_P.sum() < _KEPT * effective_P.sum())
        or bool((now_P < _KEPT_OF_ONE * effective_P).any())
        or bool((dual.scale(lambda_K) < _KEPT * spread_K).any())
    )


def _duals_of_draws(moments: Moments, rest: Target, draws: Draws, moved_PK: Tensor) -> list[Dual]:
    shape = (len(rest.prompts), moments.num_samples)
    if len(draws) != shape[0] * shape[1]:
        raise SamplingError(
            f"{len(draws)} draws came where {shape[0]} prompts x {shape[1]} were asked for",
            where="fit_moments",
            hint="use a sampler that gives as many as it is asked for, such as annealed",
        )
    group_N = draws.group_N
    return _duals(
        moments,
        draws.log_weight.cpu().view(shape),
        _features(moments, rest, draws.completions),
        None if group_N is None else group_N.cpu().view(shape),
        moved_PK,
    )


def _duals(
    moments: Moments,
    log_w_PN: Tensor,
    phi_NK: Tensor,
    group_PN: Tensor | None = None,
    moved_PK: Tensor | None = None,
) -> list[Dual]:
    """One over all prompts, or one per prompt."""
    mu_K = torch.tensor(list(moments.wanted.values()), dtype=torch.float64)
    phi_PNK = phi_NK.view(*log_w_PN.shape, len(mu_K))
    if not moments.per_prompt:
        return [Dual(log_w_PN, phi_PNK, mu_K, group_PN, None if moved_PK is None else moved_PK[0])]
    return [
        Dual(
            log_w_PN[at : at + 1],
            phi_PNK[at : at + 1],
            mu_K,
            None if group_PN is None else group_PN[at : at + 1],
            None if moved_PK is None else moved_PK[at],
        )
        for at in range(len(log_w_PN))
    ]


def _features(moments: Moments, rest: Target, completions: Completions) -> Tensor:
    return feature_values(moments.features, completions, rest.columns_of(completions)).cpu()


def _named(moments: Moments, duals: list[Dual]) -> list[tuple[str, Dual]]:
    if not moments.per_prompt:
        return [("Moments", duals[0])]
    prompts = moments.own_target.prompts
    return [
        (f"Moments, prompt {str(prompt)[:60]!r}", dual)
        for prompt, dual in zip(prompts, duals, strict=True)
    ]


def _estimates(
    moments: Moments, lambda_PK: Tensor, error_PK: Tensor, kind: Kind, num_draws: int
) -> dict[str, Estimate]:
    each = num_draws // len(lambda_PK)
    found = {}
    for k, name in enumerate(moments.features):
        rows = [
            Estimate(value, error, kind, each)
            for value, error in zip(lambda_PK[:, k].tolist(), error_PK[:, k].tolist(), strict=True)
        ]
        found[name] = combine(rows, kind) if moments.per_prompt else rows[0]
    return found
