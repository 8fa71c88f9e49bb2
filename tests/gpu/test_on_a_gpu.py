"""The checks of `benchmarks/gpu.py` on the GPU that is here."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

import posteriori as po
from posteriori.core.journal import random_streams
from posteriori.models.device import fastest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(fastest() == "cpu", reason="there is no GPU here"),
]


def test_all_checks_pass(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    gpu = importlib.import_module("gpu")
    failed = [name for name, check in gpu.CHECKS.items() if not check(torch.device(fastest()))]
    assert not failed


def test_a_model_is_loaded_there_with_a_share_of_its_memory():
    lm = po.load("tiny")
    free, total = torch.get_device_module(lm.device).mem_get_info(lm.device)
    assert lm.device.type == fastest()
    assert lm.memory_gib < total / 2**30
    assert lm.memory_gib == pytest.approx(0.4 * free / 2**30, rel=0.2)


def test_its_random_stream_comes_back():
    device = torch.device(fastest())
    torch.rand(1, device=device)
    state = random_streams.read_streams()
    first = torch.rand(5, device=device)
    random_streams.put_streams(state)
    assert torch.equal(first, torch.rand(5, device=device))
