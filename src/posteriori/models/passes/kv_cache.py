"""A key-value cache with room for the tokens to come.

transformers' cache copies all keys and values at every token, to append one. Here a row's future
tokens have their place from the start, and a token is written into it. Where autocast will round
the keys for attention, they are kept as it rounds them: the numbers are the same, and they are
rounded once instead of at every token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


def cache_with_room(
    config: PreTrainedConfig, room: int, device: torch.device, as_it_is: bool = False
) -> DynamicCache:
    """An empty cache whose rows can be extended by `room` tokens once they have been chosen.

    Layers with a window or a state of their own stay transformers'. What comes in `as_it_is` is
    not rounded.
    """
    cache = DynamicCache(config=config)
    if room:
        dtype = None if as_it_is else _rounded_for_attention(config, device)
        cache.layers = [
            RoomyLayer(room, dtype) if type(layer) is DynamicLayer else layer
            for layer in cache.layers
        ]
    return cache


def _rounded_for_attention(config: PreTrainedConfig, device: torch.device) -> torch.dtype | None:
    if config._attn_implementation != "sdpa" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


class RoomyLayer(DynamicLayer):
    """Keys and values [R, H, L, D], the first L of as many places as there will be tokens.

    `reorder_cache` chooses the rows and makes the room; until then, and where gradients are
    computed or crops, it is transformers' layer.
    """

    def __init__(self, room: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._room, self._dtype = room, dtype
        self._places: tuple[Tensor, Tensor] | None = None
        self._filled: tuple[Tensor, Tensor] | None = None

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Row i becomes what row `beam_idx[i]` was."""
        keys, values = self._now()
        length = keys.shape[-2]
        total = length + self._room if self._places is None else self._places[0].shape[-2]
        if keys.requires_grad or values.requires_grad or total <= length:
            super().reorder_cache(beam_idx)
            return
        self._places = (
            _chosen(keys, beam_idx, total, self._dtype),
            _chosen(values, beam_idx, total, self._dtype),
        )
        self._fill(length)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the tokens of `key_states` [R, H, T, D]; all keys and values so far."""
        if not self._has_room(key_states):
            return super().update(key_states, value_states, *args, **kwargs)
        assert self._places is not None
        start = self.get_seq_length()
        for places, states in zip(self._places, (key_states, value_states), strict=True):
            places[:, :, start : start + states.shape[-2]] = states
        self._fill(start + key_states.shape[-2])
        return self._now()

    def _has_room(self, states: Tensor) -> bool:
        """Whether what there is lies in its places (crop, say, makes it something else) and more
        fits behind it."""
        if self._places is None or self._filled is None or states.requires_grad:
            return False
        same = self.keys is self._filled[0] and self.values is self._filled[1]
        return same and self.get_seq_length() + states.shape[-2] <= self._places[0].shape[-2]

    def _fill(self, length: int) -> None:
        assert self._places is not None
        self.keys, self.values = self._filled = (
            self._places[0][:, :, :length],
            self._places[1][:, :, :length],
        )

    def _now(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


def _chosen(states: Tensor, index_R: Tensor, total: int, dtype: torch.dtype | None) -> Tensor:
    """Rows `index_R` of `states` [., H, L, D], in front of `total` places."""
    _, heads, length, width = states.shape
    places = states.new_empty(len(index_R), heads, total, width, dtype=dtype)
    places[:, :, :length] = states[index_R]
    return places
