"""`benchmarks/gpu.py` runs whole on the CPU, and its checks find what is wrong."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gpu")
    for name in ("gpu", "common"):
        sys.modules.pop(name, None)


def run(gpu, monkeypatch, *line: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", *line])
    return gpu.main()


def test_it_runs_whole_and_writes_its_figures(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "SMALL", gpu.SMALL._replace(steps=2, batches=(2,)))
    file = tmp_path / "figures.json"
    assert run(gpu, monkeypatch, "--json", str(file)) == 0
    said = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert list(found["checks"]) == ["enumeration", "log-probs", "training", "resuming"]
    for name, words in found["checks"].items():
        assert f"ok      {name}: {words}" in said
    first, *others = found["figures"]
    assert first["bandwidth"] > 0
    assert [each["what"] for each in others] == [
        "decode, 2 rows",
        "score, 8 rows",
        "step of rloo, lora",
        "step of rloo, full",
    ]
    for each in others:
        assert each["tokens_per_second"] > 0
        assert 0 < each["peak_gib"] < 10
    assert 0 < others[0]["bandwidth_share"] < 1


@pytest.fixture
def other_weights_there(gpu, monkeypatch):
    """What is made second, "there", is slightly another model than the first."""
    plain, made = gpu.on, []

    def on(device, tokens, **settings):
        lm = plain(device, tokens, **settings)
        made.append(lm)
        if len(made) > 1:
            with torch.no_grad():
                lm.model.get_output_embeddings().weight.mul_(1.02)
        return lm

    monkeypatch.setattr(gpu, "on", on)


@pytest.mark.parametrize("name", ["enumeration", "log-probs"])
def test_a_device_that_computes_something_else_is_found(gpu, name, other_weights_there):
    with pytest.raises(AssertionError, match="differ"):
        gpu.CHECKS[name](CPU)


def test_a_failed_check_is_said_and_the_others_go_on(gpu, monkeypatch, capsys):
    def wrong(device):
        raise AssertionError("log Z differs by 3 nats")

    monkeypatch.setattr(gpu, "CHECKS", {"enumeration": wrong, "log-probs": gpu.log_probs})
    monkeypatch.setattr(gpu, "measured", lambda *_: iter(()))
    assert run(gpu, monkeypatch) == 1
    said = capsys.readouterr().out
    assert "FAILED  enumeration: log Z differs by 3 nats" in said
    assert "ok      log-probs" in said
