"""`evaluate`: one number that judges any algorithm, KL(pi, p*), and what explains it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import norm
from torch import Tensor

from posteriori.core.default_progress import with_progress
from posteriori.core.display.frames import frame_of_figures
from posteriori.core.display.shown import (
    counted,
    html_figures,
    html_findings,
    html_plane,
    short_figures,
)
from posteriori.core.draw import draw, lm_tokens
from posteriori.core.estimates import combine
from posteriori.core.journal.journal import once
from posteriori.core.progress import Progress, one_pass, portions
from posteriori.core.protocols import LanguageModel, WantedMean
from posteriori.core.ray_actors import Ray, spread
from posteriori.core.registry import language_model
from posteriori.core.reliability import (
    is_known,
    judged,
    most_evidence,
    never_varies,
    rests_on,
)
from posteriori.core.run.out_of_memory import explained
from posteriori.core.same_outcomes import check_outcomes_of, check_same_outcomes
from posteriori.core.seeds import generator
from posteriori.core.settings.training import MAX_PROMPTS
from posteriori.core.target import Target
from posteriori.core.together import on_every_process
from posteriori.core.types import Cost, Draws, Estimate, Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count
from posteriori.diagnostics.diversity import unique_fraction
from posteriori.diagnostics.mixture import Mixture
from posteriori.diagnostics.prompt_sample import (
    draws_for,
    of_all_prompts,
    sampled_finding,
    sampled_prompts,
)
from posteriori.diagnostics.tempered_reliability import fault_of_mixture
from posteriori.diagnostics.tilting import beta_of
from posteriori.diagnostics.wasted import wasted
from posteriori.errors import ConfigError, UnknownFigureError, did_you_mean

from .bounds import check_posterior
from .findings import Beside, findings_of
from .fit_errors import with_errors_of_fit
from .metrics import bounded, figures_of, max_reward_of, of_prompt, rows, stratum

if TYPE_CHECKING:
    from posteriori.train.monitor.pair_metrics import PairFigures


class Report(dict[str, Estimate]):
    """The metrics of one policy by name, each an `Estimate`; `posteriori.evaluate` makes it.

    `pairs` says how the policy orders preference pairs, where that was asked (`with_pairs`).

    Args:
        figures: the metrics.
        findings: what a person should know of them.
        draws: the policy's own, for histograms and samples.
        cost: what the report took.
        means: those that the target's `Moments` want, with their lambda and what the policy has of
            them.
        against_target: False where the target has no evidence and is the prior itself.

    Raises:
        UnknownFigureError: when it is asked for a metric that it does not have.

    Example:
        >>> report = po.evaluate(target, prior, num_samples=200, seed=0)
        >>> report["kl_to_prior"].value
        0.0
    """

    def __init__(
        self,
        figures: dict[str, Estimate],
        findings: Sequence[Finding],
        draws: Draws,
        cost: Cost,
        means: Sequence[WantedMean] = (),
        *,
        against_target: bool = True,
    ) -> None:
        super().__init__(figures)
        self.findings = tuple(findings)
        self.draws = draws
        self.cost = cost
        self.means = tuple(means)
        self.pairs: PairFigures | None = None
        self.against_target = against_target

    def with_pairs(self, pairs: PairFigures | None) -> Report:
        """The same report, which says as well how the policy orders preference pairs (`Fit.pairs`
        of a policy that was trained on such)."""
        other = copy.copy(self)
        if pairs is not None:
            other.pairs, other.findings = pairs, (*self.findings, *pairs.findings)
        return other

    def __missing__(self, name: str) -> Estimate:
        raise UnknownFigureError(f"the report has no '{name}'", hint=did_you_mean(name, self))

    def __repr__(self) -> str:
        shown = short_figures(self)
        also = f"; {counted(len(self.findings), 'finding')}" if self.findings else ""
        return f"Report({shown}; {len(self)} figures{also})"

    def _repr_html_(self) -> str:
        return html_plane(self) + html_figures(self) + html_findings(self.findings)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row per figure and prompt. Raises `ConfigError` without
        pandas."""
        return frame_of_figures(self)

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float]:
        """An interval for log_z, kl_to_target or kl_from_target, the mean over prompts, in nats.

        Of a report that was made with exact draws of the target. Its ends are a lower and an upper
        bound in expectation, each moved outwards by the normal quantile of its standard error, so
        it holds with at least that confidence where there are enough draws for standard errors to
        be right. Where no draw of policy or prior has any evidence, log Z is that of the sampler
        which made the exact draws, if it gives one, and nothing is known otherwise. Raises
        `KeyError` for other figures, and `ConfigError` without exact draws.
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
        if not math.isfinite(gap):
            return (-math.inf if name == "log_z" else 0.0), math.inf
        low, high = (figure.value - gap, figure.value)
        low_error, high_error = (upper.standard_error, 0.0)
        if name != "kl_from_target":
            low, high = figure.value, figure.value + gap
            low_error, high_error = high_error, low_error
        low -= z * math.hypot(figure.standard_error, low_error)
        high += z * math.hypot(figure.standard_error, high_error)
        return (low if name == "log_z" else max(0.0, low)), high


@named_arguments
@on_every_process
@with_progress("evaluating")
@explained("evaluating", "set a lower num_samples, max_new_tokens or memory_gib")
def evaluate(
    target: Target,
    lm: LanguageModel,
    num_samples: int = 2000,
    seed: int = 0,
    posterior: Draws | None = None,
    *,
    max_prompts: int | None = MAX_PROMPTS,
    prior_draws: Draws | None = None,
    on_progress: Progress | None = None,
    ray: Ray = None,
) -> Report:
    """How far a language model is from the target, in nats, with error bars and findings.

        kl_to_target = KL(pi, p*),  elbo = E_pi[log p~ - log pi] = log_z - kl_to_target
        kl_from_target = KL(p*, pi),  eubo = E_p*[log p~ - log pi] = log_z + kl_from_target
        wasted_nats = min over t >= 0 of the mean over prompts of KL(pi, p*_t),  p*_t ~ prior e^t

    Metrics, in nats per completion unless they say otherwise, each an `Estimate` of the mean over
    prompts with one per prompt inside: the five above and log_z; tv and js, total variation and
    Jensen-Shannon divergence of pi and p* (at most 1 and log 2); kl_to_prior; entropy of pi, and
    target_entropy of p*; mean_reward in its own units, and its quantiles reward_q05 .. reward_q95;
    ess, what num_samples draws of pi are worth in draws of p*; pareto_k of the weights that log_z
    rests on (the worst prompt's); effective_beta, the beta of the nearest posterior p*_t (infinite
    at t = 0, the prior); perplexity of the draws under the prior, per token; truncated, the share
    of draws that max_new_tokens cut; distinct_2, unique_fraction and self_bleu of the draws.

    elbo, kl_to_prior, entropy, mean_reward and truncated are unbiased; log_z is a lower bound in
    expectation and kl_to_target consistent, both while pareto_k is small (a finding says when it is
    not). wasted_nats and effective_beta are consistent, and upper bounds of that kind where the
    weights do not reach the nearest posterior (arXiv 2205.11275, sections 3 and 4).

    Args:
        target: the target.
        lm: a policy, or any language model over the same outcomes.
        num_samples: draws per prompt of `lm`, and as many of the prior.
        seed: of the draws.
        posterior: exact draws of p* (`sample(target, "rejection")`): eubo is then their mean,
            unbiased, log_z_upper bounds log Z from above in expectation, and `Report.interval` has
            both sides.
        max_prompts: of more prompts, so many are drawn from the seed (None: all). Standard errors
            then contain that choice.
        prior_draws: draws of the prior, as many per prompt, in place of new ones.
        on_progress: counts passes over completions: drawing, scoring, asking the evidence.
        ray: how many actors of Ray share the work (`RayConfig`, `RayActors`); None: this process
            does it.

    Returns:
        A `Report`: the metrics by name, and findings.

    Raises:
        ConfigError: below two draws per prompt, or for `prior_draws` of another number.
        SamplingError: where `posterior` is not exact, or has fewer than two draws of a prompt.
        EvidenceError: where the evidence fails.

    Example:
        >>> report = po.evaluate(target, prior, num_samples=500, seed=0)
        >>> exact = po.exact(target).evaluate(prior)["kl_to_target"].mean()
        >>> found = report["kl_to_target"]
        >>> bool(abs(found.value - exact) < 5 * found.standard_error)
        True
    """
    lm = language_model(lm, "policy", target.prior)
    whole, target = target, sampled_prompts(target, max_prompts, seed)
    prior_draws = draws_for(target, whole, prior_draws)
    posterior = draws_for(target, whole, posterior)
    _check(target, num_samples, prior_draws, posterior)
    check_same_outcomes(target.prior, lm, target.prompts, "policy")
    with spread(ray, seed):
        return _evaluated(target, whole, lm, num_samples, seed, posterior, prior_draws, on_progress)


def _evaluated(
    target: Target,
    whole: Target,
    lm: LanguageModel,
    num_samples: int,
    seed: int,
    posterior: Draws | None,
    prior_draws: Draws | None,
    on_progress: Progress | None,
) -> Report:
    number = num_samples * len(target.prompts)
    alone = lm is target.prior
    drawing, of_its_own, scoring, scoring_exact = portions(
        on_progress,
        [
            (2 if alone else 3) * number,
            2 * number if not alone and prior_draws is None else 0,
            0 if alone else number,
            0 if posterior is None else len(posterior),
        ],
    )
    seeded = generator(seed, "evaluate", "policy")
    of_policy = draw(target, lm, num_samples, seeded, on_progress=drawing)
    if alone:
        of_prior, log_pi_of_prior = None, of_policy.log_proposal_N
        cost = of_policy.cost
    else:
        of_prior = prior_draws
        cost = of_policy.cost
        if of_prior is None:
            seeded = generator(seed, "evaluate", "prior")
            of_prior = draw(target, target.prior, num_samples, seeded, on_progress=of_its_own)
            cost += of_prior.cost
        log_pi_of_prior = _log_prob(lm, of_prior, scoring)
        cost += Cost(lm_tokens=lm_tokens(of_prior.completions))
    sides = [(of_policy, of_policy.log_proposal_N)]
    if of_prior is not None:
        sides.append((of_prior, log_pi_of_prior))
    prompts = range(len(target.prompts))
    mixtures, evidence = mixtures_of(target, sides)
    waste = wasted(mixtures, beta_of(target))
    figures = figures_of(of_policy, of_prior, mixtures, waste, max_reward=max_reward_of(target))
    if target.max_log_evidence is None:
        log_z = figures["log_z"]
        resting = rests_on(log_z.value, mixtures[0].num_draws)
        figures["log_z"] = replace(log_z, findings=(resting,))
    if posterior is not None:
        log_pi_N = _log_prob(lm, posterior, scoring_exact)
        cost += Cost(lm_tokens=lm_tokens(posterior.completions))
        figures |= bounded(target, mixtures, posterior, log_pi_N)
    cut = [_truncated_in_target(mixtures[at], [side for side, _ in sides], at) for at in prompts]
    beside = Beside(
        waste,
        None if of_prior is None else _unique(of_prior, prompts),
        combine(cut, "consistent"),
        faults_of(mixtures),
        never_varies(evidence, target.max_log_evidence),
        has_evidence=bool(target.evidence),
    )
    figures = of_all_prompts(figures, len(target.prompts) / len(whole.prompts))
    errors = [target.errors_of_fit(side.completions) for side, _ in sides]
    known = [each for each in errors if each is not None]
    if known:
        of_prompts = [[rows(side, at) for side, _ in sides] for at in prompts]
        figures = with_errors_of_fit(figures, mixtures, known, of_prompts, beta_of(target))
    findings = findings_of(figures, of_policy, beside)
    of_exact = {"eubo": figures["eubo"]} if posterior is not None else {}
    figures = judged(figures, findings) | of_exact
    findings += target.findings
    findings += sampled_finding(target, whole)
    means = target.means_met(of_policy.completions)
    return Report(figures, findings, of_policy, cost, means, against_target=bool(target.evidence))


def _check(
    target: Target, num_samples: int, prior_draws: Draws | None, posterior: Draws | None
) -> None:
    count(num_samples, "num_samples", 2, hint="an error bar needs two")
    if prior_draws is not None and len(prior_draws) != num_samples * len(target.prompts):
        raise ConfigError(
            f"prior_draws are {len(prior_draws)}, and num_samples={num_samples} for each of "
            f"{len(target.prompts)} prompts is {num_samples * len(target.prompts)}",
            where="evaluate",
            hint="draw as many of the prior as of the policy",
        )
    if prior_draws is not None:
        check_outcomes_of(target.prior, prior_draws.completions, "prior_draws")
    if posterior is not None:
        check_posterior(posterior, target)


def mixtures_of(
    target: Target, sides: Sequence[tuple[Draws, Tensor]]
) -> tuple[list[Mixture], list[Tensor]]:
    """Each prompt's mixture, and the log-evidence of its draws. `sides` are draws of the policy,
    and of the prior where that is another model, each with log pi."""
    strata = [
        [stratum(draws, log_pi_N, rows(draws, at)) for draws, log_pi_N in sides]
        for at in range(len(target.prompts))
    ]
    evidence = [torch.cat([s.log_evidence_n for s in both]) for both in strata]
    most = most_evidence(evidence, target.max_log_evidence)
    stated = target.max_log_evidence
    mixtures = [
        Mixture(both[0], both[1] if len(both) > 1 else None, bound, known=is_known(seen_n, stated))
        for both, bound, seen_n in zip(strata, most, evidence, strict=True)
    ]
    return mixtures, evidence


def faults_of(mixtures: Sequence[Mixture]) -> list[str]:
    """What is wrong with each prompt's weights. That none has any is another finding's."""
    return [fault_of_mixture(m) if m.log_z_value > -math.inf else "" for m in mixtures]


def _truncated_in_target(mixture: Mixture, sides: Sequence[Draws], at: int) -> Estimate:
    cut = [draws.completions.truncated_N[rows(draws, at)].cpu().double() for draws in sides]
    return mixture.target_mean(cut)


def _unique(draws: Draws, prompts: range) -> Estimate:
    return combine([unique_fraction(of_prompt(draws, at)) for at in prompts], "heuristic")


def _log_prob(lm: LanguageModel, draws: Draws, on_progress: Progress | None) -> Tensor:
    with torch.no_grad(), one_pass(on_progress, len(draws)):
        return once(lambda: lm.log_prob(draws.completions).double())
