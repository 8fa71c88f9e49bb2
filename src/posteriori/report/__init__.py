"""The report: one HTML file, read top to bottom, on policies and their distance from the target.

Read `result.py` first: `read/` makes it of runs' files, `draw/` makes figures of it, `write/` the
page, Markdown and CSV. It imports `diagnostics`, `reward_models`, `runs` and `core`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .draw.summary import figure
from .in_python import report
from .read.gather import gather
from .result import Curve, PolicyResult, Subject
from .write.page import write_report

__all__ = ["Curve", "PolicyResult", "Subject", "figure", "gather", "report", "write_report"]


class _Callable(ModuleType):
    """`posteriori.report` is this package and a function: whichever is found first, it is called
    the same."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return report(*given, **named)


sys.modules[__name__].__class__ = _Callable
