"""Draws as columns that a file holds and a page shows: texts, log-probs, rewards and weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict

from posteriori.core.occurrence import Prompt
from posteriori.core.types import Draws

MOST = 5_000
"""Draws of one model that a run keeps for its report: its first ones of every prompt."""


class Record(BaseModel):
    """One line of samples.jsonl: what drew it, for which prompt, and what the target says of it.

    Logs in nats, `log_prob` under the model that drew it; `weight` is its share of its prompt's
    weight among all draws of that model, kept here or not.
    """

    model_config = ConfigDict(extra="forbid")

    policy: str
    prompt_index: int
    prompt: Prompt
    completion: str
    ended: bool
    log_prob: float
    log_prior: float
    log_evidence: float
    reward: float
    weight: float


@dataclass(frozen=True)
class Drawn:
    """The draws of one model, in their order. `records` all name it."""

    records: Sequence[Record] = ()
    prompts: Mapping[int, Prompt] = field(default_factory=dict)

    @staticmethod
    def of(draws: Draws, policy: str = "", most: int | None = None) -> Drawn:
        """Of live draws: at most `most`, as many of each prompt, the k-th of all prompts together.

        Where there are more prompts than `most`, the first prompts.
        """
        completions = draws.completions
        prompt_N = completions.prompt_index_N.cpu().numpy()
        rank_N = rank_within(prompt_N)
        order_N = np.lexsort((prompt_N, rank_N))
        chosen_K = order_N[: len(order_N) if most is None else most]
        if most is not None and len(order_N) > most:
            whole = max(1, most // (int(prompt_N.max()) + 1))
            chosen_K = chosen_K[rank_N[chosen_K] < whole]
        kept = completions.select(chosen_K.tolist())
        columns = {
            "prompt_index": prompt_N[chosen_K].tolist(),
            "completion": kept.texts,
            "ended": kept.ended_N.tolist(),
            **{
                name: values_N.detach().double().cpu().numpy()[chosen_K].tolist()
                for name, values_N in (
                    ("log_prob", draws.log_proposal_N),
                    ("log_prior", draws.log_prior_N),
                    ("log_evidence", draws.log_evidence_N),
                    ("reward", draws.reward_N),
                )
            },
            "weight": _shares(draws.log_weight.detach().cpu().numpy(), prompt_N)[chosen_K].tolist(),
        }
        prompts = dict(enumerate(completions.prompt_set))
        rows = zip(*columns.values(), strict=True)
        named = (dict(zip(columns, row, strict=True)) for row in rows)
        return Drawn(
            [Record(policy=policy, prompt=prompts[row["prompt_index"]], **row) for row in named],
            prompts,
        )

    @staticmethod
    def from_records(records: Iterable[Record]) -> Drawn:
        kept = list(records)
        return Drawn(kept, {each.prompt_index: each.prompt for each in kept})

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def reward_N(self) -> np.ndarray:
        return np.array([each.reward for each in self.records], dtype=float)

    @cached_property
    def share_N(self) -> np.ndarray:
        """What each draw weighs as a draw of the target; every prompt weighs the same, 1 together.

        Of the draws that are here, so that they add up. A prompt whose draws have no weight at all
        has none here either.
        """
        weight_N = np.array([each.weight for each in self.records], dtype=float)
        prompt_N = np.array([each.prompt_index for each in self.records], dtype=int)
        if not len(weight_N):
            return weight_N
        total_N = np.bincount(prompt_N, weight_N)[prompt_N]
        share_N = np.divide(weight_N, total_N, out=np.zeros_like(weight_N), where=total_N > 0)
        return share_N / len(np.unique(prompt_N))

    @property
    def effective(self) -> float:
        """Kish's (sum w)^2 / sum w^2: what the draws are worth in equally weighted ones."""
        square = float(np.square(self.share_N).sum())
        return float(self.share_N.sum()) ** 2 / square if square else 0.0


def rank_within(prompt_N: np.ndarray) -> np.ndarray:
    """Which draw of its prompt each one is, counted from 0."""
    order_N = np.argsort(prompt_N, kind="stable")
    start_P = np.searchsorted(prompt_N[order_N], np.unique(prompt_N))
    first_N = np.repeat(start_P, np.diff([*start_P, len(prompt_N)]))
    rank_N = np.empty(len(prompt_N), dtype=int)
    rank_N[order_N] = np.arange(len(prompt_N)) - first_N
    return rank_N


def _shares(log_weight_N: np.ndarray, prompt_N: np.ndarray) -> np.ndarray:
    """Each draw's share of its prompt's weight; 0 where a prompt has none."""
    share_N = np.zeros(len(log_weight_N))
    for prompt in np.unique(prompt_N):
        rows = prompt_N == prompt
        most = log_weight_N[rows].max()
        if math.isfinite(most):
            weight_n = np.exp(log_weight_N[rows] - most)
            share_N[rows] = weight_n / weight_n.sum()
    return share_N
