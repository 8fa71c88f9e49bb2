"""Distributional constraints: the nearest distribution to the prior with given means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.estimates import combine
from posteriori.core.numerics import t_factor
from posteriori.core.protocols import Columns, ErrorsOfFit, Scores, WantedMean
from posteriori.core.types import Draws, Estimate, Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count, finite, in_short
from posteriori.errors import ConfigError, did_you_mean
from posteriori.evidence.shown import ShownEvidence

from .tilt import Tilt, feature_values

if TYPE_CHECKING:
    from posteriori.core.target import Target
from .fitted_moments import FittedMoments

Method = Literal["auto", "draws", "enumerate"]


class Moments(ShownEvidence):
    """Wanted means as evidence: the nearest distribution to the rest of the target that has them.

        log e(c, y) = lambda . phi(c, y),   lambda such that E_p*[phi] = wanted

    p* = argmin KL(p, prior x other evidence) over p with E_p[phi] = wanted (GDC: Khalifa, Elsahar
    and Dymetman 2021, arXiv 2012.11635). lambda is fitted when it is first needed, to the one
    target that this evidence is part of; `fitted` has it with its standard error, `attained`
    measures the means on other draws, and `frozen` is this lambda as evidence for other targets.
    The reward that is reported is phi where there is one feature, and lambda . phi where there are
    several.

    Args:
        moments: a name for each pair of (feature, wanted mean). A feature is called as TRL calls
            reward functions and returns a finite number, or true or false, per completion.
        per_prompt: one lambda for each prompt, so that each has the wanted means; otherwise one for
            all, and the mean over prompts has them.
        num_samples: draws per prompt that lambda is fitted to.
        seed: of these draws.
        method: "enumerate" (all outcomes), "draws", or "auto": enumerate where there are at most
            20,000.

    Raises:
        ConfigError: for moments that are none, or a second target.
        EvidenceError: when fitting, for features that are constant, collinear, or cannot have the
            wanted means.

    Example:
        >>> def has_a(completions, **_):
        ...     return ["a" in text for text in completions]
        >>> moments = po.Moments({"has_a": (has_a, 0.5)})
        >>> target = po.Target(prior, moments, ["x", "y"], 3)
        >>> print(moments.fitted.lambda_["has_a"].kind)
        exact
    """

    @named_arguments
    def __init__(
        self,
        moments: Mapping[str, tuple[Callable[..., Any], float]],
        *,
        per_prompt: bool = False,
        num_samples: int = 1000,
        seed: int = 0,
        method: Method = "auto",
    ) -> None:
        if not moments:
            raise ConfigError(
                "there is none", where="Moments", hint='write {"name": (feature, wanted_mean)}'
            )
        for name, pair in moments.items():
            _check(name, pair)
        count(num_samples, "num_samples", 2, where="Moments")
        if method not in get_args(Method):
            raise ConfigError(
                f"unknown method '{method}'",
                where="Moments",
                hint=did_you_mean(method, get_args(Method)),
            )
        self.features = {name: feature for name, (feature, _) in moments.items()}
        self.wanted = {name: float(mean) for name, (_, mean) in moments.items()}
        self.per_prompt, self.num_samples = per_prompt, num_samples
        self.seed, self.method = seed, method
        self.name = f"moments of {', '.join(moments)}"
        self.target: Target | None = None
        self._fitted: FittedMoments | None = None

    def bind(self, target: Target) -> None:
        """From now on these are moments of this target, and of it tempered."""
        if sum(isinstance(each, Moments) for each in target.evidence) > 1:
            raise ConfigError(
                "a target has one set of moments, because their lambdas depend on each other",
                where="Moments",
                hint="put all of them into one Moments({...})",
            )
        if self.target is None:
            self.target = target
        elif not _same(self.target, target):
            raise ConfigError(
                "these moments belong to another target already, and lambda depends on the prior, "
                "the other evidence, the prompts and max_new_tokens",
                where="Moments",
                hint="make new Moments, or use moments.frozen() for the lambda of the first",
            )

    @property
    def fitted(self) -> FittedMoments:
        """lambda and how good it is; fitted now if it was not yet."""
        if self._fitted is None:
            # Only moments that are fitted want samplers and enumeration.
            from .fit import fitted

            return self.fit_with(fitted)
        return self._fitted

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What there is to say of lambda, where it has been needed."""
        return () if self._fitted is None else self._fitted.findings

    def fit_with(self, fit: Callable[[Moments], FittedMoments]) -> FittedMoments:
        """lambda as `fit` finds it, from now on."""
        found = fit(self)
        self._fitted = found
        return found

    def frozen(self) -> Tilt:
        """This lambda as evidence of its own, for any target."""
        lambda_PK = self.fitted.lambda_PK
        return Tilt(self.features, lambda_PK, self.own_target.prompts if self.per_prompt else None)

    def in_float64(self) -> Tilt:
        return self.frozen()

    def score(self, completions: Completions, columns: Columns) -> Scores:
        return self.frozen().score(completions, columns)

    def errors_of_fit(self, completions: Completions, columns: Columns) -> ErrorsOfFit | None:
        """What lambda's errors leave open in log e: phi . L for each column of L, L L' their
        covariance."""
        covariance_PKK = self.fitted.covariance_PKK
        if covariance_PKK is None:
            return None
        values_PK, vectors_PKK = torch.linalg.eigh(covariance_PKK)
        root_PKK = vectors_PKK * values_PK.clamp(min=0.0).sqrt()[:, None]
        phi_NK = feature_values(self.features, completions, columns).cpu()
        if not self.per_prompt:
            return ErrorsOfFit(phi_NK @ root_PKK[0], shared=True)
        at_N = self.own_target.prompt_positions(completions).cpu()
        return ErrorsOfFit(torch.einsum("nk,nkm->nm", phi_NK, root_PKK[at_N]), shared=False)

    def attained(self, draws: Draws | Completions) -> dict[str, Estimate]:
        """E[phi] by feature, the mean over prompts with one per prompt inside: of the target where
        `draws` are weighted ones, of what drew them where they are `Completions`.

        Self-normalised, sum w phi / sum w; the standard error is over independent draws, or groups
        of dependent ones (delta method). Where all n of a prompt's are alike, it is what the rule
        of three leaves to values that other prompts' draws have: 3/n of how far they are apart,
        over 1.96. Measure it on other draws than lambda was fitted to.
        """
        completions = draws.completions if isinstance(draws, Draws) else draws
        columns = self.own_target.columns_of(completions)
        phi_NK = feature_values(self.features, completions, columns).cpu()
        log_w_N = draws.log_weight.cpu() if isinstance(draws, Draws) else 0 * phi_NK[:, 0]
        group_N = draws.group_N if isinstance(draws, Draws) else None
        group_N = torch.arange(len(log_w_N)) if group_N is None else group_N.cpu()
        reach_K = phi_NK.amax(0) - phi_NK.amin(0)
        rows = [
            (completions.prompt_index_N == at).cpu() for at in range(len(completions.prompt_set))
        ]
        return {
            name: combine(
                [
                    _weighted_mean(log_w_N[r], phi_NK[r, k], group_N[r], float(reach_K[k]))
                    for r in rows
                ],
                "consistent",
            )
            for k, name in enumerate(self.features)
        }

    def means_met(self, draws: Draws | Completions) -> list[WantedMean]:
        """What was wanted, with lambda, beside what is `attained`."""
        attained = self.attained(draws)
        return [
            WantedMean(name, wanted, self.fitted.lambda_[name], attained[name])
            for name, wanted in self.wanted.items()
        ]

    @property
    def own_target(self) -> Target:
        """The target that these are moments of. Raises `ConfigError` where there is none yet."""
        if self.target is None:
            raise ConfigError(
                "these moments are of no target yet",
                where="Moments",
                hint="make a posteriori.Target with them first",
            )
        return self.target


def _check(name: str, pair: Any) -> None:
    example = f'write {{"{name}": (feature, wanted_mean)}}'
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and callable(pair[0])):
        raise ConfigError(f"'{name}' is no moment", where="Moments", hint=example)
    wanted = pair[1]
    if finite(wanted) is None:
        raise ConfigError(
            f"the wanted mean of '{name}' is {in_short(wanted)}, not a number",
            where="Moments",
            hint=example,
        )


def _same(one: Target, other: Target) -> bool:
    return (
        one.prior is other.prior
        and len(one.evidence) == len(other.evidence)
        and all(a is b for a, b in zip(one.evidence, other.evidence, strict=True))
        and one.prompts == other.prompts
        and one.columns == other.columns
        and one.max_new_tokens == other.max_new_tokens
    )


def _weighted_mean(log_w_n: Tensor, value_n: Tensor, group_n: Tensor, reach: float) -> Estimate:
    share_n = log_w_n.softmax(0)
    value = float(share_n @ value_n)
    _, row_n = group_n.unique(return_inverse=True)
    num = int(row_n.max()) + 1
    off_G = torch.zeros(num, dtype=torch.float64).index_add(0, row_n, share_n * (value_n - value))
    error = t_factor(num - 1) * math.sqrt(float(off_G.square().sum()) * num / max(num - 1, 1))
    if error <= 1e-12 * reach:
        error = 3 / num * reach / 1.96
    return Estimate(value, error, "consistent", len(log_w_n), degrees_of_freedom=num - 1.0)
