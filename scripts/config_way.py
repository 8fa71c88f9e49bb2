"""How many functions a value of a run file passes on its way from the file to its first use.

    python scripts/config_way.py

A tiny run is made for real, by the command line, with a value that occurs nowhere else. Every call
of a function of posteriori is watched, from `read_config` up to the value's first use: the function
that trains, scores or draws by it has been handed it. A function is on the value's way where the
value enters or leaves it: an argument or what is returned is the value itself, a table (a mapping,
settings) with it inside, or a table of such tables. Not counted is what is handed the whole plan or
target, which hold everything, and the record of the run (`runs/`), which is a copy of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from pydantic import BaseModel

import posteriori
from posteriori.cli.main import run

HOME = str(Path(posteriori.__file__).parent)
MOST = 12
"""Functions that a value may pass."""

_RUN = """\
output_dir = "out"
prompts = ["The food"]
max_new_tokens = 3
[[evidence]]
kind = "likelihood"
word_probability = {{ bad = {value} }}
[fit]
objective = "rloo"
steps = 1
num_samples = 2
learning_rate = {value}
[sample]
sampler = "qrs"
num_samples = 2
settings = {{ acceptance = {value}, pool = 20 }}
[evaluate]
num_samples = 100
"""


class Setting(NamedTuple):
    """A key of the file, the command that uses it, and the function that uses it first."""

    key: str
    command: tuple[str, ...]
    used_by: str


SETTINGS = (
    Setting("fit.learning_rate", ("fit", "run.toml"), "Trainer.__init__"),
    Setting("evidence.0.word_probability", ("fit", "run.toml"), "WordProbability.__init__"),
    Setting(
        "sample.settings.acceptance",
        ("sample", "run.toml", "-o", "draws.jsonl"),
        "Sampler.__init__",
    ),
)
_VALUE = 0.0123456789


def way(setting: Setting) -> list[str]:
    """The functions that the setting's value passes, in the order in which it first does."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.toml"
        text = _RUN.format(value=0.5)
        # The other values stay ordinary: this one alone is followed.
        table, name = setting.key.split(".")[0], setting.key.split(".")[-1]
        del table
        lines = [
            line.replace("0.5", repr(_VALUE)) if line.startswith((name, "settings")) else line
            for line in text.splitlines()
        ]
        if not setting.key.startswith("sample"):
            lines = [
                line.replace(repr(_VALUE), "0.5") if "settings" in line else line for line in lines
            ]
        file.write_text("\n".join(lines) + "\n")
        arguments = [
            str(Path(folder) / each) if each.endswith((".toml", ".jsonl")) else each
            for each in setting.command
        ]
        found = _Watch(setting.used_by)
        sys.setprofile(found)
        try:
            code = run([*arguments, "--quiet"])
        finally:
            sys.setprofile(None)
        if code not in (0, 1) or not found.used:
            raise RuntimeError(f"{setting.key} never came to {setting.used_by} (exit code {code})")
        return list(found.passed.values())


class _Watch:
    """For `sys.setprofile`: collects functions until the value is used."""

    def __init__(self, used_by: str) -> None:
        self.used_by = used_by
        self.passed: dict[CodeType, str] = {}
        self.began = self.used = False

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        code = frame.f_code
        if self.used or event not in ("call", "return") or not code.co_filename.startswith(HOME):
            return
        self.began = self.began or code.co_name == "read_config"
        if not self.began:
            return
        values = [result] if event == "return" else _arguments(frame)
        place = str(Path(code.co_filename).relative_to(HOME))
        if place.startswith("runs/"):
            return
        if code.co_name == "read_config" or any(_holds(value) for value in values):
            self.passed.setdefault(code, f"{place}: {code.co_qualname}")
        if event == "call" and code.co_qualname.endswith(self.used_by):
            self.used = True


def _arguments(frame: FrameType) -> list[Any]:
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & 4) + bool(code.co_flags & 8)
    return [frame.f_locals.get(name) for name in code.co_varnames[:count]]


def _holds(value: Any, depth: int = 4) -> bool:
    """Whether the value that is followed is this one, or in this table."""
    if isinstance(value, float):
        return value == _VALUE
    if depth == 0:
        return False
    inside: list[Any] = []
    if isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, list | tuple) and len(value) < 20:
        inside = list(value)
    elif isinstance(value, BaseModel):
        inside = list(value.__dict__.values())
    elif is_dataclass(value) and type(value).__name__ in ("EvidenceTable", "Choice"):
        inside = list(vars(value).values())
    return any(_holds(each, depth - 1) for each in inside)


def main(show: Callable[[str], None] = print) -> int:
    worst = 0
    for setting in SETTINGS:
        passed = way(setting)
        worst = max(worst, len(passed))
        show(f"{setting.key}: {len(passed)} functions")
        for each in passed:
            show(f"  {each}")
    return 0 if worst <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
