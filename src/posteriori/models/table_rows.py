"""A table token by token: rows of prefixes, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .tabular import TabularLM


class TableRows:
    """R prefixes of a table: a prefix is a number, and its hidden state that number one-hot."""

    def __init__(self, lm: TabularLM, prompt_ids: Sequence[tuple[int, ...]], parent_R: Tensor):
        self.prompt_ids = tuple(prompt_ids)
        self._lm = lm
        table_P = torch.tensor([ids[0] for ids in prompt_ids], device=lm.device)
        self._table_R = table_P[parent_R]
        self._prefix_R = torch.zeros_like(self._table_R)
        self._depth = 0

    @property
    def logits_RV(self) -> Tensor:
        return self._lm.logits.detach()[self._table_R, self._prefix_R]

    @property
    def hidden_RD(self) -> Tensor:
        prompts, prefixes, _ = self._lm.logits.shape
        place_R = self._table_R * prefixes + self._prefix_R
        return nn.functional.one_hot(place_R, prompts * prefixes).float()

    @property
    def token_features_VD(self) -> Tensor:
        return torch.eye(self._lm.vocab_size, device=self._lm.device)

    def keep(self, index_R: Tensor) -> None:
        self._table_R, self._prefix_R = self._table_R[index_R], self._prefix_R[index_R]

    def extend(self, token_R: Tensor) -> None:
        self._prefix_R = self._lm._child(self._prefix_R, token_R, self._depth)
        self._depth += 1

    def branch(self, index_R: Tensor) -> TableRows:
        other = object.__new__(TableRows)
        vars(other).update(vars(self))
        other.keep(index_R)
        return other
