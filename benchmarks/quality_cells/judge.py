"""From a policy to the figures of its cell; and the figures of best-of-n, which has no weights."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.seeds import generator
from posteriori.core.types import Draws
from posteriori.diagnostics.frontier.best_of_n_points import mean_reward_of_best
from posteriori.samplers.independent.best_of_n_law import best_of_n_kl, best_of_n_log_ratio

from .worlds import World

Figures = dict[str, float | list[str]]


class Judge:
    """One world with one evaluation seed: all policies are compared by the same prior draws."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed

    @cached_property
    def target(self) -> po.Target:
        return self.world.target()

    @cached_property
    def prior_draws(self) -> Draws:
        seeded = generator(self.seed, "quality", "prior")
        return draw(self.target, self.target.prior, self.world.judged_by, seeded)

    def __call__(self, lm) -> Figures:
        """The distance of a policy in nats, what it spent and wasted, and its reward."""
        prior_draws = None if lm is self.target.prior else self.prior_draws
        report = po.evaluate(
            self.target, lm, self.world.judged_by, self.seed, prior_draws=prior_draws
        )
        distance = report["kl_from_target" if self.world.hard else "kl_to_target"]
        reward = report["mean_reward"]
        unknown = not self.world.rewards
        return {
            "kl": distance.value,
            "kl_error": distance.standard_error,
            "spent": report["kl_to_prior"].value,
            "wasted": math.nan if self.world.hard else report["wasted_nats"].value,
            "reward": math.nan if unknown else reward.value,
            "reward_error": math.nan if unknown else reward.standard_error,
            "pareto_k": report["pareto_k"].value,
            "findings": [f"{each.level}: {each.name}" for each in report.findings],
        }

    def best_of(self, n: int) -> Figures:
        """The law of the best of n prior draws by evidence, from the pool of prior draws.

        KL(p_n, p*) = KL(p_n, prior) + log Z - E_p_n[log e]. The three come from one pool, so their
        errors are added, which bounds that of the sum.
        """
        pool, prompts = self.prior_draws, len(self.world.prompts)
        at_N = pool.completions.prompt_index_N
        scores = [pool.log_evidence_N[at_N == p].cpu().double() for p in range(prompts)]
        rewards = [pool.reward_N[at_N == p].cpu().double() for p in range(prompts)]
        spent = best_of_n_kl(pool, n)
        log_z = [_log_mean(score_n) for score_n in scores]
        evidence = [mean_reward_of_best(score_n, score_n, n) for score_n in scores]
        reward = [
            mean_reward_of_best(s_n, r_n, n) for s_n, r_n in zip(scores, rewards, strict=True)
        ]
        if self.world.hard:
            each = [_kl_from_target(score_n, n) for score_n in scores]
            errors = [_bootstrap_error(score_n, n) for score_n in scores]
        else:
            parts = list(zip(spent.per_prompt, log_z, evidence, strict=True))
            each = [k.value + z[0] - e.value for k, z, e in parts]
            errors = [k.standard_error + z[1] + e.standard_error for k, z, e in parts]
        gained = sum(e.value for e in evidence) / prompts
        unknown = not self.world.rewards
        return {
            "kl": sum(each) / prompts,
            "kl_error": math.sqrt(sum(error**2 for error in errors)) / prompts,
            "spent": spent.value,
            "wasted": math.nan if self.world.hard else _wasted(scores, spent.value, gained),
            "reward": math.nan if unknown else sum(r.value for r in reward) / prompts,
            "reward_error": math.nan
            if unknown
            else math.sqrt(sum(r.standard_error**2 for r in reward)) / prompts,
            "pareto_k": math.nan,
            "findings": [],
        }


def _log_mean(score_n: Tensor) -> tuple[float, float]:
    """log of the mean of e, and its standard error (delta method)."""
    value = float(score_n.logsumexp(0)) - math.log(len(score_n))
    relative_n = (score_n - value).exp()
    return value, float(relative_n.std()) / math.sqrt(len(score_n))


def _wasted(scores: list[Tensor], spent: float, gained: float) -> float:
    """KL(p_n, prior) - max over t >= 0 of (t E_p_n[log e] - mean of log Z(t)), in nats."""

    def saved(log_t: float) -> float:
        t = math.exp(log_t)
        return sum(_log_mean(t * s_n)[0] for s_n in scores) / len(scores) - t * gained

    found = minimize_scalar(saved, bounds=(-7.0, math.log(10.0)), method="bounded")
    return spent + min(0.0, float(found.fun))


def _kl_from_target(score_n: Tensor, n: int) -> float:
    """KL(p*, p_n) = E_p*[log e - log Z - log p_n/prior]."""
    _, place_n, count_V = score_n.unique(return_inverse=True, return_counts=True)
    log_ratio_n = best_of_n_log_ratio(count_V.double() / len(score_n), n)[place_n]
    log_posterior_n = score_n - _log_mean(score_n)[0]
    term_n = log_posterior_n.exp() * (log_posterior_n - log_ratio_n)
    return float(term_n[score_n.isfinite()].sum()) / len(score_n)


_RESAMPLES = 200


def _bootstrap_error(score_n: Tensor, n: int) -> float:
    """The standard error of `_kl_from_target`, by the bootstrap."""
    seeded = torch.Generator().manual_seed(0)
    shape = (_RESAMPLES, len(score_n))
    rows = torch.randint(len(score_n), shape, generator=seeded)
    return float(torch.tensor([_kl_from_target(score_n[row], n) for row in rows]).std())
