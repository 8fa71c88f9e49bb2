"""Attention by plain products and by torch's own: the same numbers and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import generator

from posteriori.models.decoders import attention as module
from posteriori.models.decoders.attention import attend, bias_of

R, L, E = 3, 6, 4


def plain(q, k, v, bias):
    """softmax(q k' / sqrt(E) + bias) v, head by head."""
    rows, tokens, heads, width = q.shape
    shared = heads // k.shape[1]
    outs = []
    for head in range(heads):
        key, value = k[:, head // shared], v[:, head // shared]
        score = q[:, :, head] @ key.transpose(1, 2) / math.sqrt(width) + bias[:, 0]
        outs.append(score.softmax(-1) @ value)
    return torch.cat(outs, dim=-1).view(rows, tokens, -1)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize(("heads", "kinds"), [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("short", [10**6, 0], ids=["products", "fused"])
def test_attention_is_what_it_says(tokens, heads, kinds, short, monkeypatch):
    monkeypatch.setattr(module, "_SHORT", short)
    q = torch.randn(R, tokens, heads, E, dtype=torch.float64, generator=generator(1))
    k, v = torch.randn(2, R, kinds, L, E, dtype=torch.float64, generator=generator(2))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    allowed = torch.ones(R, 1, tokens, L, dtype=torch.bool).tril(L - tokens)
    allowed[0, :, :, :2] = False  # padding
    bias = bias_of(allowed, torch.float64)
    slopes = torch.randn(R, tokens, heads * E, dtype=torch.float64, generator=generator(3))
    outs = [way(*inputs, bias) for way in (attend, plain)]
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)
    mine, expected = (torch.autograd.grad(out, inputs, slopes) for out in outs)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(attend(*inputs, bias), outs[1], rtol=1e-12, atol=1e-12)


def test_attention_leaves_an_autocast(monkeypatch):
    q = torch.randn(R, 2, 2, E, generator=generator(1))
    k, v = torch.randn(2, R, 2, L, E, generator=generator(2))
    bias = torch.zeros(R, 1, 2, L)
    for short in (10**6, 0):
        monkeypatch.setattr(module, "_SHORT", short)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = attend(q, k, v, bias)
        assert torch.equal(rounded, attend(q, k, v, bias))
