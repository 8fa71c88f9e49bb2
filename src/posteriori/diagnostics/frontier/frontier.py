"""`frontier`: before any training, the best reward that each nat of KL can buy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.optimize import root_scalar

from posteriori.core.default_progress import with_progress
from posteriori.core.draw import draw
from posteriori.core.estimates import at_least_zero, combine
from posteriori.core.out_of_memory import explained
from posteriori.core.progress import Progress
from posteriori.core.reliability import most_evidence
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.seeds import derive, generator
from posteriori.core.settings.training import MAX_PROMPTS
from posteriori.core.shown import html_findings, html_table
from posteriori.core.target import Target
from posteriori.core.together import on_every_process
from posteriori.core.types import Cost, Draws, Estimate, Finding, Kind
from posteriori.data.given_numbers import count, finite, in_short, positive
from posteriori.diagnostics.prompt_sample import of_a_sample, sampled_finding, sampled_prompts
from posteriori.diagnostics.tilting import Stage, beta_of, proportional
from posteriori.errors import ConfigError, FrontierError
from posteriori.runs.target_journal import keeping
from posteriori.samplers.sample import sample

from .best_of_n_points import BestOfN, best_of_n_points

FEWEST = 100
"""Draws per prompt below which there is no frontier."""

_GRID = 24
"""Points of the curve."""

_FIRST_STRIDE, _STRIDE = 2.5, 2.0
"""Annealed draws are of the posterior so many times as far as where the curve ends without them,
by draws of the prior and by annealed ones: the draws on both sides have to reach the middle. Where
they cannot be trusted there, the next ones go half as far, on the scale of its logarithm."""

_LOOKS = 200
"""Places at which it is asked whether draws can be trusted."""

_MARGIN = 0.7
"""The curve ends at that share of the strength up to which the draws look as if they could be
trusted: where they begin not to, those that miss the most look best."""

_ISLANDS = 32

_NOTHING = 1e-9
"""Share of the path at which all but hard evidence is as good as absent."""


@dataclass(frozen=True)
class Point:
    """The posterior at one beta: means over prompts, with one per prompt inside; nats.

    `pareto_k` is that of the worst prompt's weights, `source` "prior", or "annealed" where draws of
    the prior do not reach.
    """

    beta: float
    kl: Estimate
    reward: Estimate
    log_z: Estimate
    pareto_k: float
    source: str


class Frontier:
    """reward(beta) against KL(beta) of the posteriors p*_beta ~ prior exp(r / beta).

    No policy has more expected reward at that KL from the prior: with lambda = 1/beta,
    reward = d log Z / d lambda and KL = lambda reward - log Z. With several prompts one beta is
    shared, and both are means over prompts. The path is prior e^t; `beta` is 1/t times that of the
    target's reward, or 1/t where it has none, or several at different betas.

    `points` run from weak to strong evidence and end where the draws cannot be trusted further.
    Where annealed draws take over from those of the prior there is a step, of their errors' size;
    `best_of_n` are the points of best-of-n; `findings` say where the curve ends and why.
    """

    def __init__(
        self,
        target: Target,
        stages: Sequence[Sequence[Stage]],
        pool: Draws,
        strongest: float,
        cost: Cost,
        share: float = 1.0,
    ) -> None:
        self.stages, self.cost, self._share = stages, cost, share
        self.unit = beta_of(target)
        self.end, because = _end(stages, strongest)
        grid = [self.end * (at / _GRID) ** 2 for at in range(1, _GRID + 1)] if self.end else []
        self.points = tuple(self._at(t) for t in grid)
        self.best_of_n: tuple[BestOfN, ...] = best_of_n_points(pool)
        self.findings: tuple[Finding, ...] = (_finding(self.points, because),)

    def __repr__(self) -> str:
        if not self.points:
            return "Frontier(known nowhere)"
        last = self.points[-1]
        return f"Frontier(up to beta {last.beta:.3g}, KL {last.kl} nats, reward {last.reward})"

    def _repr_html_(self) -> str:
        rows = [(f"{p.beta:.3g}", p.kl, p.reward, p.source) for p in self.points[::2]]
        table = html_table(("beta", "KL, nats", "reward", "draws of"), rows)
        return table + html_findings(self.findings)

    def at_beta(self, beta: float) -> Point:
        """Raises `FrontierError` below the smallest beta that is known."""
        if positive(beta) is None:
            raise ConfigError(f"beta={in_short(beta)} must be a positive number", where="frontier")
        t = self.unit / beta
        if t > self.end * (1 + 1e-9):
            raise self._beyond(f"beta={beta:g}")
        return self._at(t)

    def at_kl(self, nats: float) -> Point:
        """The posterior at that mean KL from the prior; its reward's error is that at this very KL,
        as of `at_reward`. Raises `FrontierError` beyond the end."""
        if positive(nats) is None:
            raise ConfigError(
                f"kl={in_short(nats)} must be a positive number of nats", where="frontier"
            )
        found = self._solve(lambda point: point.kl.value - nats, f"KL={nats:g}")
        return replace(found, reward=self._held(found, "kl"))

    def at_reward(self, reward: float) -> Point:
        """The posterior with that mean reward; its KL's error is that at this very reward.

        Where log e is the reward over beta this is the error of log Z, because KL at a fixed reward
        R is max_t (t R / beta - log Z(t)), whose slope in t is 0 at the maximum (envelope theorem);
        likewise the reward's error at a fixed KL is beta / t times that of log Z. Raises
        `FrontierError` beyond the end, and for no more than the prior's own, which no beta has.
        """
        if finite(reward) is None:
            raise ConfigError(
                f"reward={in_short(reward)} must be a finite number", where="frontier"
            )
        found = self._solve(lambda point: point.reward.value - reward, f"reward={reward:g}")
        if math.isinf(found.beta):
            raise FrontierError(
                f"the prior itself has a mean reward of {found.reward.value:.4g}, no less than "
                f"{reward:g}",
                where="frontier",
                hint="ask for more reward",
            )
        return replace(found, kl=self._held(found, "reward"))

    def _held(self, point: Point, fixed: str) -> Estimate:
        """The point's KL with its error where the reward is `fixed`, or its reward where the KL is:
        both move along the curve at one rate, and what takes t along it is no error."""
        figure = point.kl if fixed == "reward" else point.reward
        t = self.unit / point.beta
        if t == 0:
            return figure
        stage = self._stage_at(t)
        tilted = [each.at(t) for each in stage]
        of_reward = sum(each.reward_slope for each in tilted)
        if not of_reward > 0:
            return figure
        rate = sum(each.kl_slope for each in tilted) / of_reward
        each = [one.kl_less_reward(t, rate) for one in stage]
        if fixed == "kl":
            each = [replace(one, standard_error=one.standard_error / rate) for one in each]
        error = self._mean(each, "consistent")
        held = zip(figure.per_prompt, each, strict=True)
        return replace(
            figure,
            standard_error=error.standard_error,
            degrees_of_freedom=error.degrees_of_freedom,
            per_prompt=tuple(
                replace(one, standard_error=other.standard_error) for one, other in held
            ),
        )

    def _solve(self, surplus: Callable[[Point], float], what: str) -> Point:
        """The point where a figure that grows with t reaches what is asked; t = 0 if it starts
        there."""
        if not self.points or surplus(self.points[-1]) < 0:
            raise self._beyond(what)
        if surplus(self._at(0.0)) >= 0:
            return self._at(0.0)
        least = self._at(_NOTHING * self.end)
        if surplus(least) > 0:
            raise FrontierError(
                f"{what} is less than what hard evidence costs alone: it takes "
                f"{least.kl.value:.3g} nats, and gives a reward of {least.reward.value:.4g}",
                where="frontier",
                hint="ask for more than that",
            )
        root = root_scalar(
            lambda t: surplus(self._at(t)), bracket=(0.0, self.end), xtol=1e-12, rtol=1e-12
        ).root
        return self._at(float(root))

    def _at(self, t: float) -> Point:
        stage = self._stage_at(t)
        tilted = [each.at(t) for each in stage]
        return Point(
            beta=self.unit / t if t else math.inf,
            kl=at_least_zero(self._mean([each.kl for each in tilted], "consistent")),
            reward=self._mean([each.reward for each in tilted], "consistent"),
            log_z=self._mean([each.log_z for each in tilted], "lower_bound"),
            pareto_k=max(each.pareto_k for each in tilted),
            source="annealed" if stage[0].t0 else "prior",
        )

    def _stage_at(self, t: float) -> Sequence[Stage]:
        """The nearest draws that can be trusted at t: k-hat is blind to what is so rare that no
        draw has seen it, and the nearest draws see most."""
        nearest = sorted(self.stages, key=lambda stage: abs(t - stage[0].t0))
        return next((each for each in nearest if not _fault(each, t)), nearest[0])

    def _mean(self, per_prompt: Sequence[Estimate], kind: Kind) -> Estimate:
        return of_a_sample(combine(per_prompt, kind), self._share)

    def _beyond(self, what: str) -> FrontierError:
        known = "nothing of it is known"
        if self.points:
            last = self.points[-1]
            known = (
                f"it is known up to beta={last.beta:.3g} (KL {last.kl.value:.3g} nats, reward "
                f"{last.reward.value:.4g})"
            )
        return FrontierError(
            f"{what} lies beyond the frontier's end; {known}",
            where="frontier",
            hint="draw more (num_samples), or allow more annealed stages (stages)",
        )


@on_every_process
@with_progress("frontier")
@explained("drawing for the frontier", "set a lower num_samples, max_new_tokens or memory_gib")
def frontier(
    target: Target,
    num_samples: int = 2000,
    seed: int = 0,
    *,
    stages: int = 2,
    strongest: float = 10.0,
    max_prompts: int | None = MAX_PROMPTS,
    enough: Callable[[Frontier], bool] | None = None,
    on_progress: Progress | None = None,
    journal: Path | str | None = None,
    resume: bool = False,
) -> Frontier:
    """The reward-KL frontier of `target`, from `num_samples` draws of its prior per prompt.

    Of more than `max_prompts` prompts so many are drawn from the seed (None: all are taken); the
    standard errors then contain that choice, and a finding says so.

    They are weighted by exp(r / beta) for every beta at once. Where Pareto k-hat of a prompt's
    weights passes its limit (at most 0.7), or fewer than 100 draws are effective, annealed draws of
    the posterior at that place carry the curve on, as many again, up to `stages` times, and until
    beta is a `strongest`-th of the target's own; or until the curve so far is `enough`. Log Z is a
    lower bound in expectation; KL and reward are consistent, biased by O(1 / effective draws), with
    delta-method standard errors. `on_progress` counts passes over the prior's draws, and begins
    again with each annealed stage.

    `journal` is a folder that has what is finished until all is: with `resume=True` a run that was
    killed goes on from there, and ends with the same bits. The folder stays, to be removed when it
    is of no use any more.

    Raises `ConfigError` below 100 draws. Sources: Korbak et al. 2022, arXiv 2205.11275; Owen 2013,
    "Monte Carlo theory, methods and examples", chapter 9, for the weighted means.
    """
    _check_number(num_samples)
    if positive(strongest) is None or stages < 0:
        raise ConfigError("strongest must be a positive number, and stages not negative")

    def about() -> dict[str, Any]:
        numbers = {"num_samples": num_samples, "seed": seed, "stages": stages}
        return {"the work": "frontier", **numbers, "strongest": strongest}

    part = sampled_prompts(target, max_prompts, seed)
    share = len(part.prompts) / len(target.prompts)
    with keeping(part, journal, about, resume=resume):
        curve = _frontier(part, num_samples, seed, stages, strongest, enough, on_progress, share)
    curve.findings += sampled_finding(part, target)
    return curve


def _frontier(
    target: Target,
    num_samples: int,
    seed: int,
    stages: int,
    strongest: float,
    enough: Callable[[Frontier], bool] | None,
    on_progress: Progress | None,
    share: float,
) -> Frontier:
    stream = generator(seed, "frontier")
    pool = draw(target, target.prior, num_samples, stream, on_progress=on_progress)
    found, cost = [_stage(target, pool, 0.0)], pool.cost
    stride, t0 = _FIRST_STRIDE, 0.0
    for number in range(stages):
        end, _ = _end(found, strongest)
        if end < t0:
            # So far at once is too far for so many draws.
            stride = math.sqrt(stride)
        elif t0:
            stride = min(stride, _STRIDE)
        if not 0 < end < strongest:
            break
        if enough is not None and enough(Frontier(target, found, pool, strongest, cost, share)):
            break
        t0 = min(stride * end, strongest)
        there, seeded = target.tempered(t0), derive(seed, "frontier", number)
        drawn = sample(
            there, "annealed", num_samples, seed=seeded, islands=_ISLANDS, on_progress=on_progress
        )
        cost += drawn.cost
        # Weighted for the tempered target; the evidence itself is what tilts them further.
        whole = replace(drawn, log_evidence_N=drawn.log_evidence_N / t0)
        found.append(_stage(target, replace(whole, log_weight_N=drawn.log_weight), t0))
    return Frontier(target, found, pool, strongest, cost, share)


def frontier_of(target: Target, pool: Draws, *, strongest: float = 10.0) -> Frontier:
    """The frontier by draws of the prior that are there already; none are made to carry it on.

    As `frontier` with `stages=0`, for the draws behind an evaluation of the prior, of which no
    prompt may have fewer than 100 (`ConfigError`).
    """
    per_prompt = pool.completions.prompt_index_N.bincount(
        minlength=len(pool.completions.prompt_set)
    )
    _check_number(int(per_prompt.min()))
    return Frontier(target, [_stage(target, pool, 0.0)], pool, strongest, pool.cost)


def _check_number(num_samples: int) -> None:
    hint = "fewer cannot tell whether their weights can be trusted"
    count(num_samples, "num_samples", FEWEST, hint=hint)


def _stage(target: Target, draws: Draws, t0: float) -> list[Stage]:
    # By place and not by text: a prompt may be there twice.
    rows = rows_of_prompts(draws.completions)
    evidence = [draws.log_evidence_N[each].cpu() for each in rows]
    most = most_evidence(evidence, target.max_log_evidence)
    unit = beta_of(target)
    unit = unit if proportional(draws, unit) else 0.0
    stated = target.max_log_evidence
    return [
        Stage(draws, each, t0, bound, unit, stated=stated)
        for each, bound in zip(rows, most, strict=True)
    ]


def _end(stages: Sequence[Sequence[Stage]], strongest: float) -> tuple[float, str]:
    """The largest t up to which some draws can be trusted, and what is wrong with all beyond."""
    end = 0.0
    for look in range(1, _LOOKS + 1):
        t = strongest * (look / _LOOKS) ** 2
        faults = [_fault(stage, t) for stage in stages]
        if all(faults):
            # As far as the annealed draws between two places go.
            last = stages[-1]
            goes_on = end < last[0].t0 < t and not _fault(last, last[0].t0)
            return (last[0].t0 if goes_on else _MARGIN * end), faults[-1]
        end = t
    return end, f"1/beta is {strongest:g} times the target's own, where it was to end"


def _fault(stage: Sequence[Stage], t: float) -> str:
    """What is wrong with any prompt's weights at t; empty if nothing is. Annealed draws are taken
    back along the path alone: what lies beyond and is rare where they are, they have not seen."""
    if 0 < stage[0].t0 < t:
        return "the annealed draws end"
    return next(filter(None, (each.fault(t) for each in stage)), "")


def _finding(points: Sequence[Point], because: str) -> Finding:
    if not points:
        return Finding(
            "stop",
            "frontier_unknown",
            f"The frontier is not known anywhere: {because}.",
            "Raise num_samples, or check that the evidence can be satisfied at all.",
        )
    last = points[-1]
    return Finding(
        "info",
        "frontier_end",
        f"The frontier is known up to beta {last.beta:.3g} (KL {last.kl.value:.3g} nats); beyond, "
        f"{because}.",
        "Raise num_samples or stages to go further.",
    )
