"""`evaluate`: one number that judges any algorithm, KL(pi, p*), and what explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.stats import norm
from torch import Tensor

from ..draw import draw, lm_tokens
from ..errors import ConfigError
from ..estimates import by_prompt, combine, mean, worst
from ..protocols import LanguageModel
from ..seeds import generator
from ..target import Target
from ..types import Completions, Cost, Draws, Estimate, Finding
from . import divergences
from .bounds import check_posterior, log_z_upper
from .diversity import distinct_n, unique_fraction
from .findings import findings_of
from .mixture import Mixture, Stratum

FIGURES = (
    "log_z",
    "elbo",
    "eubo",
    "kl_to_target",
    "kl_from_target",
    "tv",
    "js",
    "kl_to_prior",
    "entropy",
    "mean_reward",
    "ess",
    "pareto_k",
    "distinct_2",
    "unique_fraction",
)


class Report(dict[str, Estimate]):
    """The figures of one policy by name, with the `findings` that a person should know.

    `draws` are the policy's own (for histograms and samples), `cost` is what the report took.
    """

    def __init__(
        self,
        figures: dict[str, Estimate],
        findings: Sequence[Finding],
        draws: Draws,
        cost: Cost,
    ) -> None:
        super().__init__(figures)
        self.findings = tuple(findings)
        self.draws = draws
        self.cost = cost

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float]:
        """An interval for log_z, kl_to_target or kl_from_target, the mean over prompts, in nats.

        Of a report that was made with exact draws of the target. Its ends are a lower and an upper
        bound in expectation, each moved outwards by the normal quantile of its standard error, so
        it holds with at least that confidence where there are enough draws for standard errors to
        be right. Raises `KeyError` for other figures, and `ConfigError` without exact draws.
        """
        if name not in ("log_z", "kl_to_target", "kl_from_target"):
            raise KeyError(f"there is no interval for '{name}'")
        if "log_z_upper" not in self:
            raise ConfigError(
                f"an interval for {name} needs exact draws of the target",
                where="evaluate",
                hint='pass posterior=posteriori.sample(target, "rejection")',
            )
        z = float(norm.isf((1 - confidence) / 2))
        figure, upper = self[name], self["log_z_upper"]
        # What the upper bound adds to the figures, which rest on the lower one.
        gap = upper.value - self["log_z"].value
        low, high = (figure.value - gap, figure.value)
        low_error, high_error = (upper.standard_error, 0.0)
        if name != "kl_from_target":
            low, high = figure.value, figure.value + gap
            low_error, high_error = high_error, low_error
        low -= z * math.hypot(figure.standard_error, low_error)
        high += z * math.hypot(figure.standard_error, high_error)
        return (low if name == "log_z" else max(0.0, low)), high


def evaluate(
    target: Target,
    lm: LanguageModel,
    num_samples: int = 2000,
    seed: int = 0,
    posterior: Draws | None = None,
) -> Report:
    """How far is `lm` from the target? `num_samples` draws a prompt of `lm`, as many of the prior.

    Figures, in nats per completion unless they say otherwise, each an `Estimate` for the mean over
    prompts with one a prompt inside:

    log_z: log sum_y prior e; elbo = E_pi[log p~ - log pi] = log_z - kl_to_target;
    eubo = E_p*[log p~ - log pi] = log_z + kl_from_target; kl_to_target = KL(pi, p*);
    kl_from_target = KL(p*, pi); tv and js, total variation and Jensen-Shannon divergence of pi and
    p* (at most 1 and log 2); kl_to_prior = KL(pi, prior); entropy of pi; mean_reward = E_pi[r] in
    the reward's own units; ess: what num_samples draws of pi are worth in draws of p*; pareto_k:
    the tail of the weights that log_z rests on, the worst prompt's; distinct_2 and unique_fraction
    of the draws.

    Guarantee: elbo, kl_to_prior, entropy and mean_reward are unbiased; log_z is a lower bound in
    expectation and kl_to_target consistent, both while pareto_k is small (a finding says when it
    is not).

    `posterior`, exact draws of p* (`posteriori.sample(target, "rejection")`), takes that condition
    away: eubo is then their mean, unbiased, kl_from_target rests on it, log_z_upper bounds log Z
    from above in expectation (`bounds.log_z_upper`), and `Report.interval` has both sides.

    Raises `ConfigError` below two draws, and `SamplingError` where `posterior` is not exact or has
    fewer than two draws of a prompt. (arXiv 2205.11275, sections 3 and 4.)
    """
    if num_samples < 2:
        raise ConfigError(f"num_samples={num_samples} must be at least 2, for an error bar")
    if posterior is not None:
        check_posterior(posterior, target)
    of_policy = draw(target, lm, num_samples, generator(seed, "evaluate", "policy"))
    if lm is target.prior:
        of_prior, log_pi_of_prior = None, of_policy.log_proposal_N
        cost = of_policy.cost
    else:
        of_prior = draw(target, target.prior, num_samples, generator(seed, "evaluate", "prior"))
        log_pi_of_prior = _log_prob(lm, of_prior)
        cost = of_policy.cost + of_prior.cost + Cost(lm_tokens=lm_tokens(of_prior.completions))
    num_prompts = len(target.prompts)
    mixtures = [
        Mixture(
            _stratum(of_policy, of_policy.log_proposal_N, _rows(of_policy, index)),
            None
            if of_prior is None
            else _stratum(of_prior, log_pi_of_prior, _rows(of_prior, index)),
        )
        for index in range(num_prompts)
    ]
    figures = _figures(of_policy, mixtures, num_prompts)
    if posterior is not None:
        log_pi_N = _log_prob(lm, posterior)
        cost += Cost(lm_tokens=lm_tokens(posterior.completions))
        figures |= _bounded(target, mixtures, posterior, log_pi_N)
    prior_unique = (
        None
        if of_prior is None
        else by_prompt(num_prompts, lambda i: unique_fraction(_of_prompt(of_prior, i)), "heuristic")
    )
    findings = [*findings_of(figures, of_policy, prior_unique), *target.findings]
    return Report(figures, findings, of_policy, cost)


def _figures(draws: Draws, mixtures: list[Mixture], num_prompts: int) -> dict[str, Estimate]:
    def mean_over_draws(values_N: Tensor) -> Estimate:
        return by_prompt(num_prompts, lambda i: mean(values_N[_rows(draws, i)]), "unbiased")

    return {
        "log_z": combine([m.log_z() for m in mixtures], "lower_bound"),
        "elbo": mean_over_draws(draws.log_weight),
        "eubo": combine([divergences.eubo(m) for m in mixtures], "consistent"),
        "kl_to_target": combine([m.kl_to_target() for m in mixtures], "consistent"),
        "kl_from_target": combine([divergences.kl_from_target(m) for m in mixtures], "consistent"),
        "tv": combine([divergences.total_variation(m) for m in mixtures], "consistent"),
        "js": combine([divergences.jensen_shannon(m) for m in mixtures], "consistent"),
        "kl_to_prior": mean_over_draws(draws.log_proposal_N - draws.log_prior_N),
        "entropy": mean_over_draws(-draws.log_proposal_N),
        "mean_reward": mean_over_draws(draws.reward_N),
        "ess": combine([m.ess() for m in mixtures], "consistent"),
        "pareto_k": worst([m.pareto_k() for m in mixtures]),
        "distinct_2": by_prompt(
            num_prompts, lambda i: distinct_n(_of_prompt(draws, i), 2), "heuristic"
        ),
        "unique_fraction": by_prompt(
            num_prompts, lambda i: unique_fraction(_of_prompt(draws, i)), "heuristic"
        ),
    }


def _bounded(
    target: Target, mixtures: list[Mixture], posterior: Draws, log_pi_N: Tensor
) -> dict[str, Estimate]:
    """What exact draws of the target say, in place of weighted ones."""
    position_N = target.prompt_positions(posterior.completions)
    strata = [_stratum(posterior, log_pi_N, position_N == i) for i in range(len(mixtures))]
    eubo = [mean(stratum.log_target_n - stratum.log_pi_n) for stratum in strata]
    of_weights = [m.log_z() for m in mixtures]
    kl = [
        replace(
            above,
            value=above.value - below.value,
            standard_error=math.hypot(above.standard_error, below.standard_error),
        )
        for above, below in zip(eubo, of_weights, strict=True)
    ]
    upper = [log_z_upper(m, stratum) for m, stratum in zip(mixtures, strata, strict=True)]
    return {
        "eubo": combine(eubo, "unbiased"),
        "kl_from_target": combine(kl, "consistent"),
        "log_z_upper": combine(upper, "upper_bound"),
    }


def _log_prob(lm: LanguageModel, draws: Draws) -> Tensor:
    with torch.no_grad():
        return lm.log_prob(draws.completions).double()


def _rows(draws: Draws, index: int) -> Tensor:
    return draws.completions.prompt_index_N == index


def _of_prompt(draws: Draws, index: int) -> Completions:
    return draws.completions.select(_rows(draws, index))


def _stratum(draws: Draws, log_pi_N: Tensor, rows: Tensor) -> Stratum:
    return Stratum(
        log_pi_N[rows].cpu(), draws.log_prior_N[rows].cpu(), draws.log_evidence_N[rows].cpu()
    )
