"""One pass of a transformers model, as the sampler and the scorer use it: prompts are run once.

Both begin with `Forward.prefill`: every distinct prompt goes through the model a single time, and
its key-value cache is then shared among the prompt's completions. (Gradients flow back through it.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from posteriori.models.text.prompt_tokens import left_padded, positions

from .kv_cache import RoomyLayer, cache_with_room
from .model_call import ModelCall


@dataclass
class Prefilled:
    """R rows so far: their cache, the mask of what it holds [R, L], how many tokens that lets
    through [R], and the next logits [R, V]."""

    cache: DynamicCache
    mask_RL: Tensor
    length_R: Tensor
    logits_RV: Tensor

    def keep(self, index_R: Tensor) -> None:
        """Row i becomes what row `index_R[i]` was; rows may repeat or vanish."""
        for layer in self.cache.layers:
            layer.reorder_cache(cast(torch.LongTensor, index_R))
        self.mask_RL = self.mask_RL[index_R]
        self.length_R = self.length_R[index_R]
        self.logits_RV = self.logits_RV[index_R]

    def move(self, index_R: Tensor) -> None:
        """As `keep`, copying only what moves where the number of rows stays the same."""
        if len(index_R) != len(self.mask_RL):
            self.keep(index_R)
            return
        to = (index_R != torch.arange(len(index_R), device=index_R.device)).nonzero()[:, 0]
        if len(to) == 0:
            return
        source = index_R[to]
        for layer in self.cache.layers:
            _move(cast(CacheLayerMixin, layer), to, source, index_R)
        self.mask_RL[to] = self.mask_RL[source]
        self.length_R[to] = self.length_R[source]
        self.logits_RV[to] = self.logits_RV[source]

    def copied(self) -> Prefilled:
        """The same rows with a cache of their own."""
        return replace(self, cache=deepcopy(self.cache))

    def grow(self, width: int) -> Tensor:
        """Let through so many more tokens per row; their positions [R, width]."""
        position_RT = self.length_R[:, None] + torch.arange(width, device=self.length_R.device)
        self.mask_RL = nn.functional.pad(self.mask_RL, (0, width), value=1)
        self.length_R = self.length_R + width
        return position_RT


_IN_PLACE = (DynamicLayer, DynamicSlidingWindowLayer, RoomyLayer)
"""Cache layers that are two tensors with one row each: of these, rows can be copied one by one."""


def _move(layer: CacheLayerMixin, to: Tensor, source: Tensor, index_R: Tensor) -> None:
    if type(layer) not in _IN_PLACE:
        layer.reorder_cache(cast(torch.LongTensor, index_R))
        return
    for kept in (layer.keys, layer.values):
        assert kept is not None
        kept[to] = kept[source]


@dataclass(frozen=True)
class Forward:
    """Any transformers model with a key-value cache."""

    call: ModelCall
    config: PreTrainedConfig
    device: torch.device
    dtype: torch.dtype
    """That of its embeddings."""

    @property
    def hidden(self) -> bool:
        return self.call.hidden

    @property
    def head(self) -> nn.Module | None:
        return self.call.head

    def __call__(
        self,
        ids_RL: Tensor,
        mask_RL: Tensor,
        position_RL: Tensor,
        num_logits: int,
        cache: DynamicCache,
    ) -> Tensor:
        """Logits [R, num_logits, V] at the last columns of `ids_RL`, which go into the cache.

        The mask covers the cached columns too. Positions count what it lets through, so left
        padding shifts nothing.
        """
        return self.call(ids_RL, mask_RL, num_logits, position_RL, cache)

    def prefill(
        self, prompt_ids: Sequence[Sequence[int]], parent_R: Tensor, room: int = 0
    ) -> Prefilled:
        """Run P prompts once, then let row r continue prompt `parent_R[r]`, token by token for
        `room` tokens (0: by many at once)."""
        ids_PL, mask_PL = left_padded(prompt_ids, self.device)
        cache = cache_with_room(self.config, room, self.device)
        logits_PV = self(ids_PL, mask_PL, positions(mask_PL), 1, cache)[:, 0]
        rows = Prefilled(cache, mask_PL, mask_PL.sum(-1), logits_PV)
        rows.keep(parent_R)
        return rows

    def extend(self, rows: Prefilled, ids_RT: Tensor) -> Tensor:
        """Feed T more tokens per row; the logits after each, [R, T, V]."""
        width = ids_RT.shape[1]
        position_RT = rows.grow(width)
        logits_RTV = self(ids_RT, rows.mask_RL, position_RT, width, rows.cache)
        rows.logits_RV = logits_RTV[:, -1]
        return logits_RTV

    def continued(
        self, prompt_ids: Sequence[Sequence[int]], parent_N: Tensor, ids_NT: Tensor
    ) -> list[Tensor]:
        """Logits [N, ., V] that add up to T + 1 columns: those after prompt `parent_N[n]`, and
        those after each of the T tokens that continue it."""
        rows = self.prefill(prompt_ids, parent_N)
        parts = [rows.logits_RV[:, None]]
        if ids_NT.shape[1]:
            # Columns past a completion's end need no mask: causal attention never looks ahead.
            parts.append(self.extend(rows, ids_NT))
        return parts

    def states(
        self, prompt_ids: Sequence[Sequence[int]], parent_N: Tensor, ids_NT: Tensor
    ) -> Tensor:
        """What enters the output head at those T + 1 columns, [N, T + 1, D].

        It is taken where it enters the head, whatever the model does to its logits afterwards.
        """
        assert self.head is not None
        with inputs_of(self.head) as seen:
            self.continued(prompt_ids, parent_N, ids_NT)
        parts = [seen[0][:, -1:][parent_N]]
        if ids_NT.shape[1]:
            parts.append(seen[-1][:, -ids_NT.shape[1] :])
        return torch.cat(parts, dim=1)


@contextlib.contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within it, what `module` is called with, call by call."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()
