"""What an evaluation returns: the metrics of one policy, with what a person should know of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy.stats import norm

from posteriori.core.display.frames import frame_of_figures
from posteriori.core.display.shown import (
    counted,
    html_figures,
    html_findings,
    html_plane,
    short_figures,
)
from posteriori.core.protocols import WantedMean
from posteriori.core.types import Cost, Draws, Estimate, Finding
from posteriori.errors import ConfigError, UnknownFigureError, did_you_mean

from .until import Looked

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
        looked: by figure, the confidence sequence of an evaluation with `until`.
        passes: pass@k by its name, "pass@1", of a target with a `Verifier`.

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
        looked: Mapping[str, Looked] | None = None,
        passes: Mapping[str, Estimate] | None = None,
    ) -> None:
        super().__init__(figures)
        self.findings = tuple(findings)
        self.draws = draws
        self.cost = cost
        self.means = tuple(means)
        self.pairs: PairFigures | None = None
        self.against_target = against_target
        self.looked = dict(looked or {})
        self.passes = dict(passes or {})

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
        return (
            html_plane(self) + html_figures({**self, **self.passes}) + html_findings(self.findings)
        )

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row per figure and prompt. Raises `ConfigError` without
        pandas."""
        return frame_of_figures({**self, **self.passes})

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
