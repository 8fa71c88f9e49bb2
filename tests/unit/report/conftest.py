"""Runs to report on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_runs import make_run


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / "gentle", 1.0), make_run(folder / "strong", 0.5, "grpo")]


@pytest.fixture
def run(two_runs, tmp_path) -> Path:
    """A run that a test may spoil."""
    return Path(shutil.copytree(two_runs[0], tmp_path / "run"))
