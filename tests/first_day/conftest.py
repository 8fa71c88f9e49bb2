"""The command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from posteriori.cli.main import run


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a command that was refused."""
        assert self.code != 0, self.out
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.strip()


@pytest.fixture
def cli(capfd, monkeypatch) -> Callable[..., Ended]:
    """Runs a command line; returns its exit code and both streams."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        code = run(arguments)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return call
