"""`evaluate`: one number that judges any algorithm, KL(pi, p*), and what explains it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core.draw import lm_tokens
from posteriori.core.elsewhere import served, serving
from posteriori.core.estimates import combine
from posteriori.core.processes.ray_actors import Ray, spread
from posteriori.core.processes.together import on_every_process
from posteriori.core.protocols import LanguageModel
from posteriori.core.registry import language_model
from posteriori.core.reliability import (
    is_known,
    judged,
    most_evidence,
    never_varies,
    rests_on,
)
from posteriori.core.run.default_progress import with_progress
from posteriori.core.run.out_of_memory import explained
from posteriori.core.run.progress import Progress, portions
from posteriori.core.same_outcomes import check_outcomes_of, check_same_outcomes
from posteriori.core.settings.training import MAX_PROMPTS
from posteriori.core.settings.until import MAX_SAMPLES, Until, checked_until
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws, Estimate
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count, finite, in_short
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
from posteriori.errors import ConfigError

from .bounds import check_posterior
from .findings import Beside, findings_of
from .fit_errors import with_errors_of_fit
from .metrics import (
    bounded,
    distances_of,
    figures_of,
    max_reward_of,
    mean_reward,
    of_prompt,
    rows,
    stratum,
)
from .report import Report
from .served_weights import findings_of_served
from .sides import Sides, drawn_sides, log_prob_of
from .until import Looked, Waiting, hopeless, look, next_look, not_reached


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
    until: Until | None = None,
    max_samples: int = MAX_SAMPLES,
    confidence: float = 0.95,
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
        lm: a policy, or any language model over the same outcomes; a `posteriori.Served` or an
            `Engine` is judged as what it really draws, by its own log-probs.
        num_samples: draws per prompt of `lm`, and as many of the prior.
        seed: of the draws.
        posterior: exact draws of p* (`sample(target, "rejection")`): eubo is then their mean,
            unbiased, log_z_upper bounds log Z from above in expectation, and `Report.interval` has
            both sides.
        max_prompts: of more prompts, so many are drawn from the seed (None: all). Standard errors
            then contain that choice.
        prior_draws: draws of the prior, as many per prompt, in place of new ones.
        until: draw on until kl_to_target is known to +- so many nats (or each of several figures:
            {"log_z": 0.05}), by confidence sequences that hold at every look; see
            `Report.looked`. `num_samples` is then for the first look, and each next one has half as
            many again.
        max_samples: draws per prompt at which that ends in any case.
        confidence: of these sequences, all looks and figures together.
        on_progress: counts passes over completions: drawing, scoring, asking the evidence; it
            begins again with each look.
        ray: how many actors of Ray share the work (`RayConfig`, `RayActors`); None: this process
            does it.

    Returns:
        A `Report`: the metrics by name, and findings.

    Raises:
        ConfigError: below two draws per prompt, for `prior_draws` of another number, or an `until`
            that cannot be waited for.
        SamplingError: where `posterior` is not exact, or has fewer than two draws of a prompt.
        EvidenceError: where the evidence fails.

    Example:
        >>> report = po.evaluate(target, prior, num_samples=500, seed=0)
        >>> exact = po.exact(target).evaluate(prior)["kl_to_target"].mean()
        >>> found = report["kl_to_target"]
        >>> bool(abs(found.value - exact) < 5 * found.standard_error)
        True
    """
    # Of an engine what it really draws is judged, by its own log-probs.
    lm = served(language_model(lm, "policy", target.prior))
    whole, target = target, sampled_prompts(target, max_prompts, seed)
    prior_draws = draws_for(target, whole, prior_draws)
    posterior = draws_for(target, whole, posterior)
    _check(target, num_samples, prior_draws, posterior)
    check_same_outcomes(target.prior, lm, target.prompts, "policy")
    wanted = {} if until is None else checked_until(until, max_samples, num_samples)
    _check_looks(wanted, confidence, prior_draws)
    waiting = Waiting(wanted, max_samples, confidence)
    with spread(ray, seed):
        return _evaluated(
            target, whole, lm, num_samples, seed, posterior, prior_draws, waiting, on_progress
        )


def _evaluated(
    target: Target,
    whole: Target,
    lm: LanguageModel,
    num_samples: int,
    seed: int,
    posterior: Draws | None,
    prior_draws: Draws | None,
    waiting: Waiting,
    on_progress: Progress | None,
) -> Report:
    passes = 2 if lm is target.prior else (6 if prior_draws is None else 4)
    drawing, scoring_exact = portions(
        on_progress,
        [
            passes * num_samples * len(target.prompts),
            0 if posterior is None else len(posterior),
        ],
    )

    def drawn(num: int, look: int) -> Sides:
        return drawn_sides(
            target, lm, num, seed, prior_draws=prior_draws, look=look, on_progress=drawing
        )

    found = drawn(num_samples, 0)
    looked: dict[str, Looked] = {}
    counts = [num_samples]
    while waiting.wanted:
        at_look, mixtures = _figures_at_look(target, whole, found)
        looked = look(waiting.wanted, at_look, target, mixtures, counts, waiting.confidence)
        known = all(each.reached for each in looked.values())
        if known or counts[-1] >= waiting.max_samples or hopeless(at_look, waiting.wanted):
            break
        total = next_look(counts[-1], waiting.max_samples)
        found = found.with_more(drawn(total - counts[-1], len(counts)))
        counts.append(total)
    of_policy, of_prior, cost = found.of_policy, found.of_prior, found.cost
    sides = found.pairs
    prompts = range(len(target.prompts))
    mixtures, evidence = mixtures_of(target, sides)
    waste = wasted(mixtures, beta_of(target))
    figures = figures_of(of_policy, of_prior, mixtures, waste, max_reward=max_reward_of(target))
    if target.max_log_evidence is None:
        log_z = figures["log_z"]
        resting = rests_on(log_z.value, mixtures[0].num_draws)
        figures["log_z"] = replace(log_z, findings=(resting,))
    if posterior is not None:
        log_pi_N = log_prob_of(lm, posterior, scoring_exact)
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
    figures = _with_other_errors(figures, target, whole, mixtures, sides)
    findings = findings_of(figures, of_policy, beside)
    of_exact = {"eubo": figures["eubo"]} if posterior is not None else {}
    figures = judged(figures, findings) | of_exact
    findings += target.findings
    findings += sampled_finding(target, whole)
    findings += not_reached(looked)
    asked = serving(lm)
    if asked is not None and of_prior is not None:
        about = findings_of_served(asked, of_policy, of_prior, found.log_pi_of_prior_N)
        findings = (*about, *findings)
    means = target.means_met(of_policy.completions)
    against = bool(target.evidence)
    return Report(figures, findings, of_policy, cost, means, against_target=against, looked=looked)


def _figures_at_look(
    target: Target, whole: Target, found: Sides
) -> tuple[dict[str, Estimate], list[Mixture]]:
    """Those that can be waited for."""
    mixtures, _ = mixtures_of(target, found.pairs)
    figures = distances_of(mixtures)
    figures["mean_reward"] = mean_reward(
        found.of_policy, found.of_prior, mixtures, max_reward_of(target)
    )
    return _with_other_errors(figures, target, whole, mixtures, found.pairs), mixtures


def _with_other_errors(
    figures: Mapping[str, Estimate],
    target: Target,
    whole: Target,
    mixtures: Sequence[Mixture],
    sides: Sequence[tuple[Draws, Tensor]],
) -> dict[str, Estimate]:
    """With what the choice of prompts, and evidence that was fitted to draws, leave open."""
    found = of_all_prompts(figures, len(target.prompts) / len(whole.prompts))
    errors = [target.errors_of_fit(side.completions) for side, _ in sides]
    known = [each for each in errors if each is not None]
    if known:
        prompts = range(len(target.prompts))
        of_prompts = [[rows(side, at) for side, _ in sides] for at in prompts]
        found = with_errors_of_fit(found, mixtures, known, of_prompts, beta_of(target))
    return found


def _check_looks(wanted: Mapping[str, float], confidence: float, prior_draws: Draws | None) -> None:
    given = finite(confidence)
    if given is None or not 0.0 < given < 1.0:
        raise ConfigError(
            f"confidence={in_short(confidence)} must lie between 0 and 1", where="evaluate"
        )
    if wanted and prior_draws is not None:
        raise ConfigError(
            "prior_draws are of one number, and until draws as many as it takes",
            where="evaluate",
            hint="leave one of them out",
        )


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
