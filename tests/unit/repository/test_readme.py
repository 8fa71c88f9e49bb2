"""The README's Python blocks run as they stand, one after the other, and do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import posteriori as po

pytestmark = pytest.mark.long

README = Path(__file__).parents[3] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.chdir(tmp_path)
    found = blocks()
    assert len(found) == 4
    names: dict = {"__name__": "readme"}
    for block in found:
        exec(compile(block, str(README), "exec"), names)
    before, after = names["before"], names["report"]["kl_to_target"]
    error = (before.standard_error**2 + after.standard_error**2) ** 0.5
    # The seeds are fixed. Nearer by five errors is seen by chance once in three million times.
    assert after.value < before.value - 5 * error
    assert after.value < before.value / 2
    assert names["curve"].at_kl(0.5).kl.value == pytest.approx(0.5, rel=1e-6)
    assert names["fit"].findings == ()
    assert isinstance(names["learned"], po.Target)
    assert (tmp_path / "warm" / "model.safetensors").exists()
    assert "soft_q" in capsys.readouterr().err
