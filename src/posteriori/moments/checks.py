"""What can be wrong with moments, as it shows in weighted draws: said before lambda is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.core.reliability import heavy_tail
from posteriori.core.types import Finding
from posteriori.errors import EvidenceError

from .dual import Dual

_COLLINEAR = 1e-8
"""The smallest eigenvalue of the features' correlations that is not rounding."""

_UNCERTAIN = 0.1
"""Standard errors of lambda, in units of 1 / (the feature's standard deviation), above which a
finding says so."""

LEAST_EFFECTIVE = 0.1
"""The share of each prompt's draws that is to be effective at lambda."""

_MISSED = 0.1
"""The share of a prompt's weight at lambda that its draws may have missed and nothing is said."""


def check_features(
    dual: Dual, names: list[str], where: str, what: str, *, moved: bool = False
) -> None:
    """Raises `EvidenceError` for features that leave lambda undetermined: constant, or collinear.

    `what` the dual is over: draws, or outcomes; draws may have `moved` towards the wanted means.
    """
    if bool(dual.log_w_PN.isneginf().all(1).any()):
        raise EvidenceError(
            f"the other evidence rules out all {what} of a prompt, so there are no means to fit",
            where=where,
            hint="mend that evidence, set num_samples higher, or use posteriori.fit_moments with "
            "a proposal that is nearer to the target",
        )
    scale_K = dual.scale()
    for k, name in enumerate(names):
        if float(scale_K[k]) < 1e-9 * max(1.0, float(dual.phi_PNK[..., k].abs().max())):
            raise _constant(dual, k, name, where, what, moved=moved)
    covariance_KK = dual.covariance(torch.zeros_like(dual.mu_K))
    values_K, vectors_KK = torch.linalg.eigh(covariance_KK / torch.outer(scale_K, scale_K))
    if float(values_K[0]) < _COLLINEAR:
        members = [name for name, x in zip(names, vectors_KK[:, 0], strict=True) if abs(x) > 1e-3]
        if moved:
            raise EvidenceError(
                f"draws that move towards the wanted means of {', '.join(map(repr, members))} end "
                "where each of these is a sum of the others: it seems that they cannot be had at "
                "once",
                where=where,
                hint="loosen one of them, or set num_samples higher",
            )
        raise EvidenceError(
            f"the features {', '.join(map(repr, members))} are collinear: within each prompt one "
            "is a sum of the others, so their lambdas are not determined",
            where=where,
            hint=f"leave one of them out ('{members[-1]}')",
        )


def _constant(
    dual: Dual, k: int, name: str, where: str, what: str, *, moved: bool
) -> EvidenceError:
    value, wanted = float(dual.phi_PNK[0, int(dual.log_w_PN[0].argmax()), k]), float(dual.mu_K[k])
    shown = {0.0: "0 (never true)", 1.0: "1 (always true)"}.get(value, f"{value:g}")
    if moved:
        return EvidenceError(
            f"draws that move towards a mean of '{name}' of {wanted:g} all end at {shown}",
            where=where,
            hint=f"want a mean that is nearer to {value:g} and not beyond it, or set num_samples "
            "higher",
        )
    return EvidenceError(
        f"'{name}' is {shown} for all {dual.log_w_PN.shape[1]} {what} of each prompt, so no lambda "
        f"can change its mean to {wanted:g}",
        where=where,
        hint="check the feature: it is the same for every completion"
        if what == "outcomes"
        else "check the feature, set num_samples higher, or use posteriori.fit_moments with a "
        "proposal that has it more often",
    )


def check_reachable(dual: Dual, names: list[str], where: str, what: str) -> None:
    """Raises `EvidenceError` where no lambda attains the wanted means."""
    if dual.attainable():
        return
    low_K, high_K = dual.reach()
    for k, name in enumerate(names):
        low, wanted, high = float(low_K[k]), float(dual.mu_K[k]), float(high_K[k])
        if not low < wanted < high:
            at_edge = wanted in (low, high)
            raise EvidenceError(
                f"no distribution over these {what} has a mean of '{name}' of {wanted:g}: it lies "
                f"between {low:.6g} and {high:.6g}"
                + (", and at an end lambda would be infinite" if at_edge else ""),
                where=where,
                hint="to make a feature always or never true use a Constraint"
                if at_edge
                else f"want a mean between {low:.4g} and {high:.4g}"
                + (", or set num_samples higher to see more of them" if what == "draws" else ""),
            )
    wanted = ", ".join(f"'{n}' {float(mu):g}" for n, mu in zip(names, dual.mu_K, strict=True))
    raise EvidenceError(
        f"no distribution over these {what} has all these means at once: {wanted}",
        where=where,
        hint="each of them can be had alone; loosen one of them",
    )


def prompts_covered(dual: Dual, lambda_K: Tensor) -> list[bool]:
    """Whether the weights of each prompt at lambda can be trusted, and a good share of its draws is
    effective. Each is judged alone: a pool of prompts hides those whose draws hold nothing."""
    num = dual.log_w_PN.shape[1]
    # k-hat is NaN for too few draws with weight, which the share shows, and for dependent ones.
    return [
        float(effective) >= LEAST_EFFECTIVE * num and not heavy_tail(k, float(effective), num)
        for effective, k in zip(dual.effective(lambda_K), dual.pareto_k(lambda_K), strict=True)
    ]


def prompts_complete(dual: Dual, lambda_K: Tensor) -> list[bool]:
    """Whether what the draws of each prompt may have missed is little at lambda. Of few draws, 3/N
    is much anywhere: it may be doubled."""
    share_P, _ = dual.missed(lambda_K)
    return (share_P <= max(_MISSED, 6 / dual.log_w_PN.shape[1])).tolist()


def findings_of_lambda(
    dual: Dual,
    lambda_K: Tensor,
    error_K: Tensor,
    value_by_name: Mapping[str, float],
    where: str,
    prompts: Sequence[Prompt],
) -> Iterator[Finding]:
    """What a person should know of a fitted lambda. `value_by_name` is the whole of it; `lambda_K`
    how far it is from where the draws are; `prompts` are those of the dual."""
    num = dual.log_w_PN.shape[1]
    effective_P, k_P = dual.effective(lambda_K), dual.pareto_k(lambda_K)
    bad = [at for at, fine in enumerate(prompts_covered(dual, lambda_K)) if not fine]
    if bad:
        worst = min(bad, key=lambda at: float(effective_P[at]))
        yield Finding(
            "warn",
            "moments_not_reached",
            f"{where}: of {num} draws after {_short(prompts[worst])} {effective_P[worst]:.0f} are "
            f"effective at lambda, with a pareto_k of {k_P[worst]:.2f}{_others(bad, prompts)}.",
            "Set num_samples higher, or use posteriori.fit_moments with another proposal.",
        )
    blind = [at for at, fine in enumerate(prompts_complete(dual, lambda_K)) if not fine]
    if blind:
        share_P, _ = dual.missed(lambda_K)
        worst = max(blind, key=lambda at: float(share_P[at]))
        yield Finding(
            "warn",
            "moments_not_seen",
            f"{where}: no draw of {num} after {_short(prompts[worst])} has the features that "
            f"lambda favours and other prompts' draws have; what was missed there may hold up to "
            f"{share_P[worst]:.0%} of the weight{_others(blind, prompts)}.",
            "If they cannot come after this prompt, leave it out; otherwise set num_samples "
            "higher, or use posteriori.fit_moments with another proposal.",
        )
    scale_K = dual.covariance(lambda_K).diagonal().sqrt()
    for at, (name, value) in enumerate(value_by_name.items()):
        if float(error_K[at] * scale_K[at]) > _UNCERTAIN:
            yield Finding(
                "warn",
                "lambda_badly_determined",
                f"{where}: lambda of '{name}' is {value:.3g} with a standard error of "
                f"{float(error_K[at]):.2g}.",
                "Set num_samples higher.",
            )


def _short(prompt: Prompt) -> str:
    return repr(str(prompt)[:60])


def _others(bad: Sequence[int], prompts: Sequence[Prompt]) -> str:
    return f" ({len(bad)} of {len(prompts)} prompts are such)" if len(bad) > 1 else ""
