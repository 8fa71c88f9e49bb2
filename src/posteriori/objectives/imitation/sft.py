"""Maximum likelihood on demonstrations: the target is the data's own distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.data.demonstrations import Demonstration
from posteriori.objectives.base import Constants, Objective
from posteriori.objectives.taken_rows import TakenRows
from posteriori.objectives.tokenised_rows import Row, TokenisedRows


class SFTConfig(Strict):
    """Settings of maximum likelihood on demonstrations.

    Args:
        rows_per_step: demonstrations per step.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    rows_per_step: int = Field(default=16, ge=1)


class SFT(Objective[SFTConfig]):
    """loss = -log pi(y|c), (c, y) from the data, in shuffled epochs.

    Its mean is the cross-entropy of the data under the policy, KL(data, pi) + H(data): the gradient
    is that of the KL, without bias, and the fixed point is the data's distribution (with as many
    rows as there are, that of the rows). It sums over a completion's tokens, end of sequence
    included, and not over the prompt's; nats per completion.
    """

    name = "sft"
    divergence = "KL(data, policy)"
    fixed_point = "the data's distribution"
    needs_log_prob: ClassVar[bool] = False

    Settings = SFTConfig

    rows: TakenRows

    def __init__(self, demonstrations: Sequence[Demonstration], **settings: Any) -> None:
        super().__init__(**settings)
        self._demonstrations = demonstrations

    @property
    def on_policy(self) -> bool:
        return False

    @property
    def draws_nothing(self) -> bool:
        return True

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        data = tokenised(self._demonstrations, target, seed)
        self.rows = TakenRows(data, "demonstrations", with_prior=False)

    def draw(
        self,
        target: Target,
        policy: TrainableLM,  # noqa: ARG002 - the data have been written
        prompts: Sequence[Prompt],  # noqa: ARG002 - the rows have their own
        num_samples: int,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Draws:
        return self.rows.next(target, self.settings.rows_per_step)[0]

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - all count alike
        return {}

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:  # noqa: ARG002
        return -token_log_prob_nL.sum(-1)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        """`nats_per_token`: the same loss over the step's tokens."""
        self.rows.observe(draws)
        tokens = int(draws.completions.lengths_N.sum())
        return {"nats_per_token": -float(log_prob_N.sum()) / tokens}


def tokenised(demonstrations: Sequence[Demonstration], target: Target, seed: int) -> TokenisedRows:
    """The demonstrations as outcomes of the target."""
    rows = [Row(each.prompt, (each.completion,), each.where) for each in demonstrations]
    return TokenisedRows(rows, target, seed, "demonstrations")
