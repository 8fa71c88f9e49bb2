"""The values that flow between the parts: draws, estimates, findings, and completions.

They are over the outcomes that `completions.py` defines: read that first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from .completions import Completions
from .display.finding import Finding
from .display.shown import ShownDraws, counted
from .occurrence import Prompt
from .rows_of_prompts import resampled_rows
from .tensors import cat_padded

Kind = Literal["exact", "unbiased", "consistent", "lower_bound", "upper_bound", "heuristic"]
Guarantee = Literal["exact", "properly_weighted", "asymptotic", "heuristic"]
"""What draws are: independent draws of the target; E[w f(y)] = sum_y p~(y) f(y) for every f; the
target's in the limit of a long run; or nothing that can be promised."""


@dataclass(frozen=True)
class Cost:
    """What a result took: tokens run through language models (those of experts and local judges
    too), evidence calls, wall seconds."""

    lm_tokens: int = 0
    evidence_calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.lm_tokens + other.lm_tokens,
            self.evidence_calls + other.evidence_calls,
            self.seconds + other.seconds,
        )


def _cat(parts: list[Tensor]) -> Tensor:
    """One after another; rows of tokens are filled up to the longest."""
    return cat_padded(parts) if parts[0].dim() > 1 else torch.cat(parts)


_OPTIONAL = ("token_log_prior_NL", "log_weight_N", "group_N")
"""Tensors [N, ...] of `Draws` that may be missing."""


@dataclass(frozen=True, repr=False)
class Draws(ShownDraws):
    """Completions with everything that the target says about them.

        log_weight = log prior + log evidence - log proposal

    All tensors are float64 [N] in nats, unless they say otherwise.

    Args:
        completions: the N completions.
        log_proposal_N: log-prob under the distribution that drew them; NaN where that is unknown (a
            data set's), and then so are the log-weights.
        log_prior_N: log-prob under the prior.
        log_evidence_N: log e(c, y).
        reward_N: in the units of the user's own function.
        cost: what the draws took.
        token_log_prior_NL: the prior's log-prob token by token, [N, L].
        log_weight_N: where a sampler weighs otherwise: draws that were accepted or resampled weigh
            all the same.
        group_N: equal for draws that depend on each other (a population, a chain).
        log_z: the estimate of log Z, with one per prompt inside.
        guarantee: "exact", "properly_weighted", "asymptotic" or "heuristic".
        findings: what is to be known of the draws, in words.
        figures: metrics of the run by name, such as the acceptance rate.
        attached: tensors [N, ...] that an objective wants to have again with its draws.

    Example:
        >>> draws = po.sample(target, "importance", num_samples=100, seed=0)
        >>> len(draws), len(draws.resample(10, seed=0))
        (200, 20)
    """

    completions: Completions
    log_proposal_N: Tensor
    log_prior_N: Tensor
    log_evidence_N: Tensor
    reward_N: Tensor
    cost: Cost = Cost()
    token_log_prior_NL: Tensor | None = None
    log_weight_N: Tensor | None = None
    group_N: Tensor | None = None
    log_z: Estimate | None = None
    guarantee: Guarantee | None = None
    findings: tuple[Finding, ...] = ()
    figures: Mapping[str, Estimate] = field(default_factory=dict[str, "Estimate"])
    attached: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.completions)

    def select(self, index: Tensor | Sequence[int] | slice) -> Draws:
        """The draws at `index` (positions, a mask or a slice), in that order; the cost stays."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.log_prior_N.device)
        held = vars(self)
        some: dict[str, Tensor | None] = {name: held[name] for name in _OPTIONAL}
        return replace(
            self,
            completions=self.completions.select(index),
            log_proposal_N=self.log_proposal_N[index],
            log_prior_N=self.log_prior_N[index],
            log_evidence_N=self.log_evidence_N[index],
            reward_N=self.reward_N[index],
            attached={name: each[index] for name, each in self.attached.items()},
            **{name: None if each is None else each[index] for name, each in some.items()},
        )

    @staticmethod
    def concat(parts: Sequence[Draws]) -> Draws:
        """All draws of `parts`, in order; their costs add up. What only some of them have (and
        every estimate of log Z, which is not theirs together) is left out; so is a guarantee that
        is not that of all."""
        some: dict[str, Tensor] = {}
        for name in _OPTIONAL:
            values = [vars(part)[name] for part in parts]
            if not any(each is None for each in values):
                some[name] = _cat(values)
        guarantee = parts[0].guarantee
        shared = all(part.guarantee == guarantee for part in parts)
        common = [name for name in parts[0].attached if all(name in p.attached for p in parts)]
        attached = {name: _cat([part.attached[name] for part in parts]) for name in common}
        return Draws(
            Completions.concat([part.completions for part in parts]),
            torch.cat([part.log_proposal_N for part in parts]),
            torch.cat([part.log_prior_N for part in parts]),
            torch.cat([part.log_evidence_N for part in parts]),
            torch.cat([part.reward_N for part in parts]),
            sum((part.cost for part in parts), Cost()),
            guarantee=guarantee if shared else None,
            attached=attached,
            token_log_prior_NL=some.get("token_log_prior_NL"),
            log_weight_N=some.get("log_weight_N"),
            group_N=some.get("group_N"),
        )

    def resample(self, num_samples: int, seed: int = 0) -> Draws:
        """`num_samples` draws per prompt, with replacement, in proportion to exp(log_weight).

        Systematic resampling (Kitagawa 1996), so a draw of share s comes floor or ceil of
        s num_samples times. The result weighs all the same. For weighted draws its law tends to
        the target with the number of draws there were, not with `num_samples`. Raises
        `ConfigError` where no draw of a prompt has any weight.
        """
        picked = self.select(resampled_rows(self.completions, self.log_weight, num_samples, seed))
        return replace(picked, log_weight_N=torch.zeros_like(picked.log_prior_N))

    @property
    def log_weight(self) -> Tensor:
        """log w of each draw, unnormalised: log p~ - log proposal, unless a sampler has its own."""
        if self.log_weight_N is not None:
            return self.log_weight_N
        return self.log_prior_N + self.log_evidence_N - self.log_proposal_N

    @property
    def texts(self) -> list[str]:
        return self.completions.texts

    @property
    def prompts(self) -> list[Prompt]:
        return self.completions.prompts

    @property
    def completion_ids(self) -> list[list[int]]:
        return self.completions.completion_ids


@dataclass(frozen=True, repr=False)
class Estimate:
    """A number with its error bar, and what kind of claim it is.

    +- 1.96 standard errors are a 95% interval: errors that rest on fewer than thirty values are
    wider than s / sqrt(n), by Student's t.

    Args:
        value: the estimate; with several prompts the mean over them.
        standard_error: its Monte Carlo error for the prompts at hand: how far another seed would
            land.
        kind: "exact"; "unbiased"; "consistent" (the bias vanishes as 1 / num_draws); "lower_bound"
            or "upper_bound" (in expectation); "heuristic" (no guarantee).
        num_draws: the draws that it rests on.
        findings: what is to be known of it, in words.
        per_prompt: one estimate per prompt.
        standard_error_new_prompts: the error if the prompts are taken as a sample of all prompts,
            so that the spread between them counts as well; None with a single prompt.
        degrees_of_freedom: of the standard error; infinite where it rests on many values.

    Example:
        >>> print(po.Estimate(-1.25, 0.01, "unbiased", 1000))
        -1.25 ± 0.01
    """

    value: float
    standard_error: float
    kind: Kind
    num_draws: int
    findings: tuple[Finding, ...] = ()
    per_prompt: tuple[Estimate, ...] = ()
    standard_error_new_prompts: float | None = None
    degrees_of_freedom: float = math.inf

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"Estimate({self}, {self.kind}, {counted(self.num_draws, 'draw')})"

    def __str__(self) -> str:
        """The value and its error; of a figure whose error is unknown (NaN) the value alone."""
        if math.isnan(self.standard_error):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ± {self.standard_error:.2g}"
