"""The reward that each nat of KL can buy: a curve, from weighted draws at a few strengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy.optimize import root_scalar

from posteriori.core.display.shown import html_findings, html_table
from posteriori.core.estimates import at_least_zero, combine
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws, Estimate, Finding, Kind
from posteriori.data.given_numbers import finite, in_short, positive
from posteriori.diagnostics.prompt_sample import of_a_sample
from posteriori.diagnostics.tilting import Stage, beta_of
from posteriori.errors import ConfigError, FrontierError

from .best_of_n_points import BestOfN, best_of_n_points

_GRID = 24
"""Points of the curve."""

_LOOKS = 200
"""Places at which it is asked whether draws can be trusted."""

_MARGIN = 0.7
"""The curve ends at that share of the strength up to which the draws look as if they could be
trusted: where they begin not to, those that miss the most look best."""

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
    """The best reward at each KL from the prior: reward(beta) against KL(beta) of the posteriors.

        p*_beta ~ prior exp(r / beta),   lambda = 1 / beta,
        reward = d log Z / d lambda,   KL = lambda reward - log Z

    No policy has more expected reward at that KL. `posteriori.frontier` makes one. With several
    prompts one beta is shared, and both are means over prompts. The path is prior e^t; `beta` is
    1/t times that of the target's reward, or 1/t where it has none, or several at different betas.

    Attributes:
        points: from weak to strong evidence, up to where the draws can be trusted; KL in nats.
            Where annealed draws take over from those of the prior there is a step, of their errors'
            size.
        best_of_n: the points of best-of-n.
        findings: where the curve ends, and why.
        cost: what it took.

    Example:
        >>> curve = po.frontier(target, num_samples=500, stages=0, seed=0)
        >>> point = curve.at_kl(0.1)
        >>> round(point.kl.value, 6)
        0.1
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
        self.end, because = end_of(stages, strongest)
        grid = [self.end * (at / _GRID) ** 2 for at in range(1, _GRID + 1)] if self.end else []
        self.points = tuple(self._at(t) for t in grid)
        # Best-of-n is of the prior's own draws, and weighted ones are an engine's.
        weighed = any(each.weighed for each in stages[0])
        self.best_of_n: tuple[BestOfN, ...] = () if weighed else best_of_n_points(pool)
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


def end_of(stages: Sequence[Sequence[Stage]], strongest: float) -> tuple[float, str]:
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
    """What is wrong with any prompt's weights at t; empty if nothing is.

    Annealed draws are taken back along the path and never further than they went themselves: what
    lies beyond and is rare where they are, they have not seen, and no diagnostic shows it.
    """
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
