"""Random streams that nobody else can move."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from transformers.initialization import guard_torch_init_functions

from posteriori.core.seeds import drawing


def layers():
    made = [nn.Linear(3, 4), nn.Conv1d(2, 3, 2), nn.Embedding(5, 2)]
    nn.init.kaiming_uniform_(made[0].weight, a=5**0.5)
    nn.init.trunc_normal_(made[2].weight)
    drawn = [torch.randn(3), torch.rand(2, 2), torch.empty(4).uniform_(-1, 1)]
    return [p.detach() for layer in made for p in layer.parameters()] + drawn


def test_weights_are_those_of_the_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        want = layers()
    with drawing(3):
        got = layers()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.moves_rng
def test_another_thread_that_seeds_in_between_changes_nothing():
    with drawing(3):
        want = [torch.rand(2), torch.rand(2)]
    with drawing(3):
        got = [torch.rand(2)]
        thread = threading.Thread(target=lambda: torch.manual_seed(77))
        thread.start()
        thread.join()
        got.append(torch.rand(2))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.moves_rng
def test_nor_does_one_that_loads_a_model():
    """transformers puts functions of its own into `torch.nn.init` for as long as it loads."""
    with drawing(3):
        want = layers()
    with drawing(3), guard_torch_init_functions():
        torch.manual_seed(77)
        got = layers()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
