"""The shapes of a run's JSON files, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from posteriori.core.protocols import WantedMean
from posteriori.core.types import Cost, Estimate, Finding, Guarantee, Kind
from posteriori.diagnostics.frontier.best_of_n_points import BestOfN
from posteriori.diagnostics.frontier.curve import Point
from posteriori.report.asked import label_of, pair_labels
from posteriori.report.result import Curve


class _Record(BaseModel):
    """Later versions may write more than is read here."""

    model_config = ConfigDict(extra="ignore")


class OnePrompt(_Record):
    value: float
    standard_error: float


class EstimateRecord(_Record):
    """An estimate as evaluation.json has it."""

    value: float
    standard_error: float
    standard_error_new_prompts: float | None = None
    kind: Kind
    num_draws: int
    per_prompt: list[OnePrompt] = []

    @property
    def estimate(self) -> Estimate:
        each = tuple(
            Estimate(one.value, one.standard_error, self.kind, self.num_draws)
            for one in self.per_prompt
        )
        return Estimate(
            self.value,
            self.standard_error,
            self.kind,
            self.num_draws,
            per_prompt=each,
            standard_error_new_prompts=self.standard_error_new_prompts,
        )


class PolicyRecord(_Record):
    """One policy of evaluation.json."""

    figures: dict[str, EstimateRecord]
    findings: list[Finding] = []
    cost: Cost = Cost()

    @property
    def estimates(self) -> dict[str, Estimate]:
        return {name: each.estimate for name, each in self.figures.items()}


class MomentRecord(_Record):
    """A wanted mean of evaluation.json: its lambda, and what each policy attains."""

    wanted: float
    lambda_: EstimateRecord = Field(alias="lambda")
    attained: dict[str, EstimateRecord] = {}


def met(moments: Mapping[str, MomentRecord], who: str) -> dict[str, Estimate]:
    """What a policy, or draws, attained of the means, by how a report names them."""
    return {
        label_of(WantedMean(name, each.wanted, each.lambda_.estimate, mine.estimate)): mine.estimate
        for name, each in moments.items()
        if (mine := each.attained.get(who)) is not None
    }


class PairsOfPolicy(_Record):
    """How a policy orders preference pairs."""

    accuracy: EstimateRecord
    loss: EstimateRecord
    findings: list[Finding] = []


class PairsRecord(_Record):
    """The pairs of evaluation.json, `held_out` from training or not."""

    held_out: bool
    policies: dict[str, PairsOfPolicy] = {}


class RunRecord(_Record):
    """evaluation.json. The demo has several policies in folders of their own: `runs` says where
    each was trained, `described` and `beta_of_target` what it is and what it was judged by.
    `stopped` is why a run ended early."""

    num_samples: int
    policies: dict[str, PolicyRecord]
    title: str = ""
    described: dict[str, str] = {}
    runs: dict[str, str] = {}
    beta_of_target: dict[str, float] = {}
    demo: dict[str, Any] = {}
    stopped: Finding | None = None
    moments: dict[str, MomentRecord] = {}
    pairs: PairsRecord | None = None
    against_target: bool = True

    def asked(self, policy: str) -> dict[str, Estimate]:
        """What was asked of a policy beside the evidence, by how a report names it: the means that
        moments want, and how it orders pairs."""
        found = met(self.moments, policy)
        if self.pairs is not None and policy in self.pairs.policies:
            ordered = self.pairs.policies[policy]
            accuracy, loss = pair_labels(held_out=self.pairs.held_out)
            found |= {accuracy: ordered.accuracy.estimate, loss: ordered.loss.estimate}
        return found

    def findings_of_pairs(self, policy: str) -> list[Finding]:
        """What there is to say of how it orders them."""
        known = {} if self.pairs is None else self.pairs.policies
        return known[policy].findings if policy in known else []


class SampleRecord(_Record):
    """What stands beside a file of draws. `why_no_kl` says in words why the draws have no place in
    the reward-KL plane, where they have none."""

    sampler: str
    settings: dict[str, Any] = {}
    proposal: str | None = None
    num_samples: int
    seed: int
    guarantee: Guarantee
    of_target: bool
    config: dict[str, Any]
    num_prompts: int
    num_draws: int
    draws_sha256: str
    figures: dict[str, EstimateRecord] = {}
    why_no_kl: str = ""
    moments: dict[str, MomentRecord] = {}
    findings: list[Finding] = []
    cost: Cost = Cost()
    versions: dict[str, Any] = {}

    @property
    def estimates(self) -> dict[str, Estimate]:
        return {name: each.estimate for name, each in self.figures.items()}


class DuringTraining(_Record):
    """A line of evaluations.jsonl: a step, and beside it the figures by name."""

    step: int
    figures: dict[str, EstimateRecord]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, line: Any) -> Any:
        """Whatever has a value and a standard error is a figure, nested or not."""
        if not isinstance(line, dict) or not isinstance(line.get("figures", line), dict):
            return line
        recorded = {
            name: value
            for name, value in line.get("figures", line).items()
            if isinstance(value, dict) and {"value", "standard_error"} <= value.keys()
        }
        return {"step": line.get("step"), "figures": recorded}


class _PointRecord(_Record):
    beta: float
    kl: EstimateRecord
    reward: EstimateRecord
    log_z: EstimateRecord
    pareto_k: float
    source: str


class _BestOfRecord(_Record):
    n: int
    kl: EstimateRecord
    reward: EstimateRecord


class CurveRecord(_Record):
    """frontier.json, and what `posteriori frontier --json` prints."""

    points: list[_PointRecord]
    best_of_n: list[_BestOfRecord] = []
    findings: list[Finding] = []

    @property
    def curve(self) -> Curve:
        points = [
            Point(
                each.beta,
                each.kl.estimate,
                each.reward.estimate,
                each.log_z.estimate,
                each.pareto_k,
                each.source,
            )
            for each in self.points
        ]
        best = [BestOfN(each.n, each.kl.estimate, each.reward.estimate) for each in self.best_of_n]
        return Curve(points, best, self.findings)
