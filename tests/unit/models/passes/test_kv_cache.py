"""The cache with room for tokens to come holds what transformers' own holds."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from helpers import tiny_lm
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from posteriori.models.passes.kv_cache import RoomyLayer, cache_with_room


def _states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 2, tokens, 3, generator=generator)
    return keys, values


def _both(room: int) -> tuple[RoomyLayer, DynamicLayer]:
    """A layer with room and transformers', both after a prompt whose rows were repeated."""
    layers = RoomyLayer(room, None), DynamicLayer()
    for layer in layers:
        layer.update(*_states(2, 4, seed=0))
        layer.reorder_cache(torch.tensor([0, 0, 1, 1, 1]))
    return layers


def _assert_same(ours: DynamicLayer, theirs: DynamicLayer) -> None:
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)
    assert ours.get_seq_length() == theirs.get_seq_length()


@torch.no_grad()
def test_tokens_rows_that_vanish_and_crops_are_those_of_transformers():
    ours, theirs = _both(room=6)
    for step in range(3):
        for layer in (ours, theirs):
            layer.update(*_states(5, 1, seed=step + 1))
        _assert_same(ours, theirs)
    for layer in (ours, theirs):
        layer.reorder_cache(torch.tensor([4, 0]))
        layer.update(*_states(2, 2, seed=8))
    _assert_same(ours, theirs)
    for layer in (ours, theirs):
        layer.crop(-3)
        layer.update(*_states(2, 1, seed=9))
    _assert_same(ours, theirs)


@torch.no_grad()
def test_a_token_is_written_into_its_place():
    ours, _ = _both(room=6)
    where = ours.keys.data_ptr()
    for step in range(6):
        ours.update(*_states(5, 1, seed=step))
        assert ours.keys.data_ptr() == where


@torch.no_grad()
def test_more_tokens_than_there_is_room_for_are_appended_all_the_same():
    ours, theirs = _both(room=1)
    for step in range(3):
        for layer in (ours, theirs):
            layer.update(*_states(5, 1, seed=step))
    _assert_same(ours, theirs)


@torch.no_grad()
def test_a_copy_has_places_of_its_own():
    ours, theirs = _both(room=4)
    branch = deepcopy(ours)
    ours.update(*_states(5, 1, seed=1))
    branch.update(*_states(5, 1, seed=2))
    theirs.update(*_states(5, 1, seed=1))
    _assert_same(ours, theirs)
    assert branch.keys.data_ptr() != ours.keys.data_ptr()
    assert torch.equal(branch.keys[:, :, -1:], _states(5, 1, seed=2)[0])


def test_what_is_differentiated_flows_through():
    ours, _ = _both(room=4)
    keys, values = (states.requires_grad_() for states in _states(5, 1, seed=1))
    ours.update(keys, values)
    (ours.keys.sum() + ours.values.sum()).backward()
    assert torch.equal(keys.grad, torch.ones_like(keys))
    assert torch.equal(values.grad, torch.ones_like(values))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_keys_are_rounded_only_where_attention_would_round_them(attention):
    config = deepcopy(tiny_lm("llama").model.config)
    config._attn_implementation = attention
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = cache_with_room(config, 3, torch.device("cpu"))
    layer = cache.layers[0]
    layer.update(*_states(2, 4, seed=0))
    layer.reorder_cache(torch.tensor([0, 1]))
    assert layer.keys.dtype == (torch.bfloat16 if attention == "sdpa" else torch.float32)


def test_a_window_stays_a_window():
    config = deepcopy(tiny_lm("llama").model.config)
    config.layer_types = ["sliding_attention", "full_attention"]
    config.sliding_window, config.num_hidden_layers = 4, 2
    kinds = [type(layer) for layer in cache_with_room(config, 3, torch.device("cpu")).layers]
    assert kinds == [DynamicSlidingWindowLayer, RoomyLayer]
    without = cache_with_room(config, 0, torch.device("cpu"))
    assert [type(layer) for layer in without.layers] == [
        type(layer) for layer in DynamicCache(config=config).layers
    ]
