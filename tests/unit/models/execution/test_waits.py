"""How often decoding waits for its device: at most once a token, where an accelerator would stand
still meanwhile.

Counted on the CPU, by the operations whose result the host has to know: one number, or how many
elements meet a condition.
"""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
import torch
from helpers import tiny_lm
from torch.utils._python_dispatch import TorchDispatchMode

import posteriori as po
from posteriori.models.execution import generate

WAITING = (
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
)


class Waits(TorchDispatchMode):
    """Counts them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            isinstance(each, torch.Tensor) and each.dtype in (torch.bool, torch.uint8)
            for each in args[1]
        )
        if name in WAITING or by_mask:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def without_ends(lm: po.CausalLM) -> po.CausalLM:
    """One whose rows all last: how many leave the batch differs from run to run."""
    head = lm.module.get_output_embeddings()
    bias = torch.zeros(head.weight.shape[0])
    bias[list(lm.eos_token_ids)] = -1e4
    head.bias = torch.nn.Parameter(bias)
    return lm


def waits(lm: po.CausalLM, max_new_tokens: int, **settings) -> Counter[str]:
    with Waits() as found:
        lm.sample(["a", "c d"], 3, max_new_tokens, torch.Generator().manual_seed(1), **settings)
    return found.counts


def test_the_counter_counts():
    with Waits() as found:
        ones = torch.ones(3)
        float(ones.sum())
        ones[ones > 0]
        ones.nonzero()
    assert found.counts.total() == 3


@pytest.mark.parametrize(
    ("architecture", "most"),
    [
        ("gpt2", 1),
        ("llama", 1),
        # transformers asks once more whether its mask may be left out.
        ("gpt_neox", 2),
    ],
)
def test_drawing_waits_once_a_token(architecture, most, monkeypatch):
    # Inference mode passes the counter by.
    body = inspect.unwrap(generate._generate_chunk)
    monkeypatch.setattr(generate, "_generate_chunk", torch.no_grad()(body))
    lm = without_ends(tiny_lm(architecture))
    waits(lm, 4)  # the check of a model at its first use
    few, many = waits(lm, 8), waits(lm, 24)
    assert (many - few).total() <= 16 * most, many - few
    assert many["_local_scalar_dense"] >= 24, "it is the loop that was counted"
