"""What language models that are made around another one share: its tokens, its batches, training.

`Prompted`, `InEnvironment` and the engines' models state only what they do otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from posteriori.errors import ModelError

from .completions import Completions
from .occurrence import Prompt
from .protocols import LanguageModel, TrainableLM

AbleT = TypeVar("AbleT")


class Wrapped:
    """A language model around `lm`, with the tokens of `lm`."""

    lm: LanguageModel

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""
        return self.lm.eos_token_ids

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.lm.vocab_size

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Texts of token ids."""
        return self.lm.decode(ids)

    def completions(
        self,
        prompts: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
    ) -> Completions:
        """Completions from outside, as of the model inside."""
        return self.lm.completions(prompts, completion_ids, max_new_tokens)

    def features(self, completions: Completions) -> Tensor:
        """What the model inside knows of each prefix; see `LanguageModel.features`."""
        return self.lm.features(self._as_read(completions))

    def micro_batches(
        self, completions: Completions, together: int = 1, keeps_logits: bool = False
    ) -> list[Tensor]:
        """Rows that the model inside scores at a time."""
        return self.lm.micro_batches(self._as_read(completions), together, keeps_logits)

    def _as_read(self, completions: Completions) -> Completions:
        """The completions as the model inside reads them."""
        return completions


class WrappedTrainable(Wrapped):
    """One that is trained as the model inside is. Each raises `ModelError` where that cannot be."""

    @property
    def module(self) -> torch.nn.Module:
        """What an optimiser trains."""
        return self._trainable.module

    @property
    def device(self) -> torch.device:
        """Where the model inside is."""
        return self._trainable.device

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that training changes."""
        return self._trainable.trained_state()

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts such tensors back."""
        self._trainable.load_trained_state(state)

    def save_pretrained(self, directory: Path) -> None:
        """The model inside alone."""
        self._trainable.save_pretrained(directory)

    @property
    def _trainable(self) -> TrainableLM:
        return self._that(TrainableLM, "be trained")

    def _that(self, protocol: type[AbleT], ability: str) -> AbleT:
        """The model inside, where it has this ability."""
        if not isinstance(self.lm, protocol):
            raise ModelError(
                f"{type(self.lm).__name__} cannot {ability}", where=type(self).__name__
            )
        return self.lm
