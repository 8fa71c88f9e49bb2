"""What the pairwise objectives share: where pairs come from, their labels and their figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor
from typing_extensions import TypeVar

from posteriori.core.draw import lm_tokens
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws
from posteriori.data.preferences import read_preferences
from posteriori.data.rows import rows_of
from posteriori.errors import CheckpointError, ConfigError, ObjectiveError
from posteriori.objectives.base import Constants, Objective, policy_figures
from posteriori.objectives.score_function import refuse_hard_evidence

from .tokenised_pairs import USUAL_SHARE, PreferenceData, held_out_pairs


def _source(value: Any) -> Any:
    """A path, or the rows of whatever else has rows: settings are recorded as plain values."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    return [row for _, row in rows_of(value, "pairs")]


PairSource = Annotated[str | list[dict[str, Any]] | None, BeforeValidator(_source)]


class PairsConfig(Strict):
    """Settings of the pairwise objectives: where their pairs come from.

    Args:
        pairs: preference data: a file, a data set, or rows of prompt, chosen, rejected; None: pairs
            of draws, which the target's evidence labels.
        pairs_per_step: pairs of the data per step.
        held_out: share of the data's prompts that is not trained on, and judges the policy.
        proposal: without `pairs`, what draws: "policy", as it stands, or "prior".
        labels: without `pairs`: "sampled" draws each label; "expected" weighs both orders by their
            probability.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    pairs: PairSource = None
    pairs_per_step: int | None = Field(default=None, ge=1)
    held_out: float = Field(default=USUAL_SHARE, ge=0, lt=1)
    proposal: Literal["policy", "prior"] = "policy"
    labels: Literal["expected", "sampled"] = "expected"


PairsT = TypeVar("PairsT", bound=PairsConfig, default=PairsConfig)


class Pairs(Objective[PairsT]):
    """A loss of h = score(y1) - score(y2) for pairs of completions; `score` is log pi/prior.

    `pairs` names preference data (rows of prompt, chosen, rejected: see
    `posteriori.data.preferences`), taken in shuffled epochs; the target's evidence is then not
    asked. A share `held_out` of their prompts (left out: 10%, where there are twenty or more) is
    not trained on, with all pairs, and judges the policy: `posteriori.train.monitor.pair_metrics`.
    Without `pairs`, neighbouring draws of a prompt, from the policy (or the prior), are pairs; the
    target's own evidence labels them by Bradley-Terry: P(y1 preferred to y2) = sigmoid(s (log e1 -
    log e2)). `labels="sampled"` draws the label; "expected" weighs both orders by their
    probability, which has the same expected gradient and less variance.

    Raises `ObjectiveError` for evidence of zero (the log-odds are infinite, or, of two such draws,
    undefined) and for an odd number of draws per prompt.
    """

    rows_together: ClassVar[int] = 2
    replays: ClassVar[bool] = True
    needs_log_prob: ClassVar[bool] = False
    paths: ClassVar[tuple[str, ...]] = ("pairs",)

    Settings = PairsConfig

    _taken: Tensor
    _log_prior_R: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        given, source = self.settings.model_fields_set, self.settings.pairs
        idle = {"proposal", "labels"} if source is not None else {"pairs_per_step", "held_out"}
        if idle & given:
            name = sorted(idle & given)[0]
            raise ConfigError(
                f"'{name}' is for {'draws' if source is not None else 'preference data'}, and "
                f"'pairs' is {'given' if source is not None else 'missing'}",
                where=f"objective '{self.name}'",
                hint=f"remove '{name}' or change 'pairs'",
            )
        self._pairs = None if source is None else read_preferences(source)
        self._data: PreferenceData | None = None
        self._judging: PreferenceData | None = None

    @property
    def on_policy(self) -> bool:
        return self._pairs is None and self.settings.proposal == "policy"

    @property
    def draws_nothing(self) -> bool:
        """With preference data."""
        return self._pairs is not None

    @property
    def judged_by(self) -> tuple[PreferenceData | None, bool]:
        """The pairs of `pairs` that judge a policy, and whether they are kept from its training.
        Known after `prepare`."""
        return (self._judging, True) if self._judging is not None else (self._data, False)

    @property
    def label_scale(self) -> float:
        """s: by how much a nat of evidence moves the log-odds of a label."""
        return 1.0

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        if self._pairs is None:
            return
        kept, judging = held_out_pairs(self._pairs, self.settings.held_out, seed)
        self._data = PreferenceData(kept, target, seed)
        self._judging = PreferenceData(judging, target, seed) if judging else None
        self.register_buffer("_taken", torch.zeros((), dtype=torch.long))
        # log prior of each completion, NaN until it has had its turn: one pass over all epochs.
        unknown_R = torch.full((2 * len(self._data),), torch.nan, dtype=torch.float64)
        self.register_buffer("_log_prior_R", unknown_R)

    def draw(
        self,
        target: Target,
        policy: TrainableLM,
        prompts: Sequence[Prompt],
        num_samples: int,
        generator: torch.Generator,
    ) -> Draws:
        if num_samples % 2 and not (self._data and self.settings.pairs_per_step):
            raise ObjectiveError(
                f"'{self.name}' takes draws two by two, and num_samples is {num_samples}",
                hint="set num_samples to an even number",
            )
        if self._data is not None:
            count = self.settings.pairs_per_step or len(prompts) * num_samples // 2
            return self._from_data(self._data, target, count)
        drawn = super().draw(target, policy, prompts, num_samples, generator)
        refuse_hard_evidence(drawn, f"'{self.name}' needs finite log-odds of each pair")
        if self.settings.labels == "expected":
            return drawn
        uniform_n = torch.rand(len(drawn) // 2, dtype=torch.float64, generator=generator)
        return drawn.select(self.labelled(drawn, uniform_n.to(drawn.log_evidence_N.device)))

    def labelled(self, drawn: Draws, uniform_n: Tensor) -> Tensor:
        """Positions that put the preferred draw of each pair first: y1 where u < P(y1 > y2)."""
        swapped_n = (uniform_n >= self._odds(drawn).sigmoid()).long()
        first_n = torch.arange(0, len(drawn), 2, device=uniform_n.device) + swapped_n
        return torch.stack([first_n, first_n + 1 - 2 * swapped_n], dim=1).flatten()

    def probability(self, draws: Draws) -> Tensor:
        """P(the first of each pair is preferred), [N / 2]."""
        if self._pairs is not None or self.settings.labels == "sampled":
            return torch.ones_like(draws.log_prior_N[::2])
        return self._odds(draws).sigmoid()

    def _odds(self, draws: Draws) -> Tensor:
        log_e_N = draws.log_evidence_N
        return self.label_scale * (log_e_N[::2] - log_e_N[1::2])

    def score(self, log_prob_N: Tensor, log_prior_N: Tensor, length_N: Tensor) -> Tensor:  # noqa: ARG002 - `by_token`
        """By what the policy orders completions, [N]: here log pi/prior, nats."""
        return log_prob_N - log_prior_N

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - of the prior
        first_n = self.probability(draws)
        preferred_N = torch.stack([first_n, 1 - first_n], dim=1).flatten()
        return {"log_prior_N": draws.log_prior_N, "preferred_N": preferred_N}

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        score_n = token_log_prob_nL.sum(-1) - constants["log_prior_N"]
        return self.pair_loss(score_n[::2] - score_n[1::2], constants["preferred_N"][::2])

    def pair_loss(self, h_n: Tensor, probability_n: Tensor) -> Tensor:
        """The loss of pairs with that difference of scores, and that P(first is preferred)."""
        raise NotImplementedError

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        """`accuracy`: the share of pairs that the policy orders as their labels do; `margin`: the
        mean difference of `score` from preferred to other; each one's log pi/prior; and the
        policy's own figures where it is known what drew."""
        if self._data is not None:
            rows = self._data.rows(int(self._taken), len(draws) // 2)
            self._log_prior_R[rows] = draws.log_prior_N.cpu()
            self._taken += len(rows) // 2
        log_ratio_N = log_prob_N - draws.log_prior_N
        first_n, other_n = log_ratio_N[::2], log_ratio_N[1::2]
        score_N = self.score(log_prob_N, draws.log_prior_N, draws.completions.lengths_N)
        p_n, h_n = self.probability(draws), score_N[::2] - score_N[1::2]
        agree_n = 0.5 + (p_n - 0.5) * h_n.sign()
        figures = {} if self._data is not None else policy_figures(draws, log_prob_N)
        return {
            **figures,
            "accuracy": float(agree_n.mean()),
            "margin": float(((2 * p_n - 1) * h_n).mean()),
            "chosen_log_ratio": float((p_n * first_n + (1 - p_n) * other_n).mean()),
            "rejected_log_ratio": float(((1 - p_n) * first_n + p_n * other_n).mean()),
        }

    def _from_data(self, data: PreferenceData, target: Target, count: int) -> Draws:
        """The next pairs. What drew them is unknown, and the evidence is not called: NaN."""
        rows = data.rows(int(self._taken), count)
        completions = data.completions(rows)
        log_prior_N = self._log_prior_R[rows].to(completions.tokens_NL.device)
        new_N = log_prior_N.isnan()
        cost = Cost()
        if bool(new_N.any()):
            unseen = completions.select(new_N)
            log_prior_N[new_N] = target.log_prior(unseen)
            cost = Cost(lm_tokens=lm_tokens(unseen))
        unknown_N = torch.full_like(log_prior_N, torch.nan)
        return Draws(completions, unknown_N, log_prior_N, unknown_N, unknown_N, cost)

    def get_extra_state(self) -> dict[str, str]:
        return {} if self._data is None else {"pairs": self._data.sha256}

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state != self.get_extra_state():
            raise CheckpointError(
                "the pairs are not those that the run began with",
                where=f"objective '{self.name}'",
                hint="put the file of pairs back, or start a new run",
            )
