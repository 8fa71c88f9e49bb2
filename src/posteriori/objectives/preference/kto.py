"""Kahneman-Tversky optimisation: unpaired feedback, one completion and one label a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.data.feedback import read_feedback
from posteriori.data.rows import rows_of
from posteriori.errors import ConfigError
from posteriori.objectives.base import Constants, Objective
from posteriori.objectives.taken_rows import TakenRows, kl_by_samples
from posteriori.objectives.tokenised_rows import Row, TokenisedRows


def _source(value: Any) -> Any:
    """A path, or the rows of whatever else has rows: settings are recorded as plain values."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    return [row for _, row in rows_of(value, "feedback")]


_ROUNDING = 1e-4
"""Nats: log-probs of float32 models differ by less than that from batch to batch."""


class KTOConfig(Strict):
    """Settings of the objective "kto".

    Args:
        feedback: a file, a data set, or rows of prompt, completion, label; None: draws, which the
            target's evidence labels.
        rows_per_step: rows of the data per step; left out, as many as there would be draws.
        proposal: without `feedback`, what draws: "policy", as it stands, or "prior".
        labels: without `feedback`: "sampled" draws each label; "expected" weighs both by their
            probability.
        beta: what multiplies log-ratios; left out, 1 for draws and 0.1 for `feedback`.
        desirable_weight: lambda_D, what a desirable completion counts.
        undesirable_weight: lambda_U, what another one counts.
        kl_rate: how fast the reference point follows KL(policy, prior): the weight of the latest
            step in its running mean.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    feedback: Annotated[str | list[dict[str, Any]] | None, BeforeValidator(_source)] = None
    rows_per_step: int | None = Field(default=None, ge=1)
    proposal: Literal["policy", "prior"] = "policy"
    labels: Literal["expected", "sampled"] = "expected"
    beta: float | None = Field(default=None, gt=0)
    desirable_weight: float = Field(default=1.0, gt=0)
    undesirable_weight: float = Field(default=1.0, gt=0)
    kl_rate: float = Field(default=0.1, gt=0, le=1)


class KTO(Objective[KTOConfig]):
    """loss = lambda_D (1 - sigmoid(b h - z)) where y is desirable, lambda_U (1 - sigmoid(z - b h))
    where it is not;  h = log pi/prior (y|c),  z = b max(0, KL(pi, prior)), a constant.

    With P(y) the probability that y is desirable, a completion pulls with w = lambda_D P - lambda_U
    (1 - P). Where w < 0 the loss falls all the way to pi(y|c) = 0, however near to 0 w is; what is
    left ends, for draws of q, where

        q(y) w(y) b sigmoid'(b h(y) - z) = m pi(y|c),  one number m for all y with w > 0.

    (For b < 1; at b = 1 those with w <= m exp(z) lose their mass too.) That is not the target, and
    no posterior: it depends on what drew the data, evidence enters through w alone, and whatever is
    undesirable on balance is ruled out. With draws of the prior that are desirable or not for
    certain it is the prior on what is desirable. `dpo` and a reward model (`posteriori.fit_reward`)
    lead to the target.

    `feedback` are rows of prompt, completion and label, taken in shuffled epochs; the evidence is
    then not asked. Without it draws are labelled by the target: P(y) = e/(1 + e), so a completion
    of log e = 0 is as often desirable as not; evidence zero is P = 0. KL(pi, prior) is a running
    mean: over the draws, or, with `feedback`, one fresh draw per step of each of its prompts (the
    authors' estimate, by completions of other prompts, is cheaper, and of no KL). `beta` is b, as
    in `dpo`.

    Source: Ethayarajh et al. 2024, arXiv 2402.01306, equation 8; that it drops what is undesirable
    on balance: theorem 4.3.
    """

    name = "kto"
    fixed_point = "the desirable alone: q w sigmoid'(b log pi/prior - z) in proportion to pi"
    replays: ClassVar[bool] = True
    needs_log_prob: ClassVar[bool] = False
    paths: ClassVar[tuple[str, ...]] = ("feedback",)

    Settings = KTOConfig

    kl: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        given, source = self.settings.model_fields_set, self.settings.feedback
        idle = {"proposal", "labels"} if source is not None else {"rows_per_step"}
        if idle & given:
            name = sorted(idle & given)[0]
            raise ConfigError(
                f"'{name}' is for {'draws' if source is not None else 'feedback'}, and "
                f"'feedback' is {'given' if source is not None else 'missing'}",
                where=f"objective '{self.name}'",
                hint=f"remove '{name}' or change 'feedback'",
            )
        self._feedback = None if source is None else read_feedback(source)
        self.rows: TakenRows | None = None
        self.register_buffer("kl", torch.zeros((), dtype=torch.float64))
        self._kl_of_step = 0.0

    @property
    def on_policy(self) -> bool:
        return self._feedback is None and self.settings.proposal == "policy"

    @property
    def draws_nothing(self) -> bool:
        """With feedback."""
        return self._feedback is not None

    @property
    def beta(self) -> float:
        default = 1.0 if self._feedback is None else 0.1
        return default if self.settings.beta is None else self.settings.beta

    @property
    def reference_point(self) -> Tensor:
        """z, nats times b."""
        return self.beta * self.kl.clamp(min=0)

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        if self._feedback is None:
            return
        rows = [Row(each.prompt, (each.completion,), each.where) for each in self._feedback]
        data = TokenisedRows(rows, target, seed, "feedback")
        self.rows = TakenRows(data, "rows of feedback", with_prior=True)
        self._desirable_R = torch.tensor([each.desirable for each in self._feedback]).double()

    def draw(
        self,
        target: Target,
        policy: TrainableLM,
        prompts: Sequence[Prompt],
        num_samples: int,
        generator: torch.Generator,
    ) -> Draws:
        if self.rows is not None:
            count = self.settings.rows_per_step or len(prompts) * num_samples
            drawn, rows = self.rows.next(target, count)
            label_N = self._desirable_R[rows].to(drawn.log_prior_N.device)
            self._kl_of_step, cost = kl_by_samples(target, policy, drawn.completions, generator)
            drawn = replace(drawn, cost=drawn.cost + cost)
        else:
            drawn = super().draw(target, policy, prompts, num_samples, generator)
            label_N = drawn.log_evidence_N.sigmoid()
            if self.settings.labels == "sampled":
                uniform_N = torch.rand(len(drawn), dtype=torch.float64, generator=generator)
                label_N = (uniform_N.to(label_N.device) < label_N).double()
        return replace(drawn, attached={**drawn.attached, "desirable_N": label_N})

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - of the prior
        return {
            "log_prior_N": draws.log_prior_N,
            "desirable_N": draws.attached["desirable_N"],
            "reference_N": self.reference_point.to(draws.log_prior_N).expand(len(draws)),
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        its, p_n = self.settings, constants["desirable_N"]
        h_n = token_log_prob_nL.sum(-1) - constants["log_prior_N"]
        value_n = self.beta * h_n - constants["reference_N"]
        liked_n = its.desirable_weight * p_n * (1 - value_n.sigmoid())
        return liked_n + its.undesirable_weight * (1 - p_n) * (1 - (-value_n).sigmoid())

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        """`accuracy`: of all pairs of a desirable completion and another one, the share of which
        the desirable one has the larger log pi/prior; `reference_point`: z; and the policy's own
        figures where it is known what drew."""
        log_ratio_N = log_prob_N - draws.log_prior_N
        figures = {"reference_point": float(self.reference_point)}
        accuracy = _ordered(log_ratio_N, draws.attached["desirable_N"])
        if accuracy is not None:
            figures["accuracy"] = accuracy
        if self.rows is not None:
            self.rows.observe(draws)
        else:
            figures |= super().observe(draws, log_prob_N)
            of_prior = _kl_by_prior(draws, log_ratio_N)
            self._kl_of_step = figures["kl_to_prior"] if self.on_policy else of_prior
        self.kl = self.kl.lerp(torch.full_like(self.kl, self._kl_of_step), self.settings.kl_rate)
        return figures


def _ordered(score_N: Tensor, p_N: Tensor) -> float | None:
    """The area under the ROC curve, ties counting half; None where all labels are the same.

    Differences of the size of rounding errors are ties: before the first update all scores are.
    """
    score_N = (score_N / _ROUNDING).round()
    order_N = score_N.argsort()
    score_N, p_N = score_N[order_N].contiguous(), p_N[order_N]
    below_N1 = torch.nn.functional.pad((1 - p_N).cumsum(0), (1, 0))
    first_N = torch.searchsorted(score_N, score_N)
    last_N = torch.searchsorted(score_N, score_N, right=True)
    pairs = p_N.sum() * (1 - p_N).sum()
    if not float(pairs):
        return None
    return float((p_N * (below_N1[first_N] + below_N1[last_N]) / 2).sum() / pairs)


def _kl_by_prior(draws: Draws, log_ratio_N: Tensor) -> float:
    """KL(pi, prior) from draws of the prior: E[t log t - t + 1], t = pi/prior, never below 0."""
    t_N, drawn_N = log_ratio_N.exp(), (draws.log_prior_N - draws.log_proposal_N).exp()
    return float((drawn_N * (t_N * log_ratio_N - t_N + 1)).mean())
