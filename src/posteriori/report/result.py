"""What a report is made of: policies, each with its figures and draws, and the run around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.core.types import Cost, Estimate, Finding, Guarantee
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.diagnostics.frontier.best_of_n_points import BestOfN
from posteriori.diagnostics.frontier.curve import Point
from posteriori.runs.draw_records import Drawn

from .asked import asked_of, shown_figures


@dataclass(frozen=True)
class SamplerNote:
    """What makes a result that of a sampler: its guarantee, if its draws are the target's, what
    made them (settings in one line), and `why` in words it has no place in the plane."""

    guarantee: Guarantee
    of_target: bool
    made_by: str = ""
    why: str = ""


@dataclass(frozen=True)
class PolicyResult:
    """A policy by name: its figures, its first draws, one record a training step, and what it is.

    `history` may be empty (a policy from elsewhere, the prior), its records may lack any figure,
    and their numbers may be the strings "inf", "-inf" and "nan", as a run's metrics file has them.
    `evaluations` are the evaluations made while training: a step, and figures by name. `target`
    names the target that the policy was judged by, where a report has several. A sampler is the
    same with a `sampler` note and without a history: its figures are those of what it draws.
    """

    name: str
    figures: Mapping[str, Estimate]
    history: Sequence[Mapping[str, Any]]
    description: str
    findings: Sequence[Finding] = ()
    cost: Cost = field(default_factory=Cost)
    drawn: Drawn = field(default_factory=Drawn)
    num_draws: int = 0
    evaluations: Sequence[tuple[int, Mapping[str, Estimate]]] = ()
    target: str = ""
    sampler: SamplerNote | None = None

    @staticmethod
    def of(
        name: str, report: Report, history: Sequence[Mapping[str, Any]], description: str
    ) -> PolicyResult:
        """From an evaluation that has just been made; all its draws are kept, and what was asked
        beside the evidence: means that moments want, preference pairs."""
        figures = shown_figures(report, against_target=report.against_target)
        return PolicyResult(
            name,
            {**figures, **asked_of(report)},
            history,
            description,
            report.findings,
            report.cost,
            Drawn.of(report.draws),
            len(report.draws),
        )

    @property
    def evaluated(self) -> bool:
        """Not so for a run that was stopped: it has a history and nothing else."""
        return bool(self.figures)


@dataclass(frozen=True)
class Curve:
    """The frontier as it was predicted: what `posteriori.frontier` found, without its draws."""

    points: Sequence[Point]
    best_of_n: Sequence[BestOfN]
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Subject:
    """All that a report says. `prompts` by their position in the target; those that have draws.

    `settings` and `versions` are one mapping per run, by the run's name. `samplers` are no
    policies: they have figures and draws, and no training.
    """

    title: str
    about: str
    results: Sequence[PolicyResult]
    prior: PolicyResult | None = None
    prompts: Mapping[int, Prompt] = field(default_factory=dict)
    num_prompts: int = 0
    curve: Curve | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    base_model: str = ""
    samplers: Sequence[PolicyResult] = ()

    @property
    def everyone(self) -> list[PolicyResult]:
        """The prior, if there is one, then the policies, then the samplers."""
        first = [] if self.prior is None else [self.prior]
        return [*first, *self.results, *self.samplers]
