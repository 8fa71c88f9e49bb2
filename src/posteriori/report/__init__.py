"""The report: one HTML file, read top to bottom, on policies and their distance from the target."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .gather import gather
from .in_python import report
from .page import write_report
from .result import Curve, PolicyResult, Subject
from .summary import figure

__all__ = ["Curve", "PolicyResult", "Subject", "figure", "gather", "report", "write_report"]


class _Callable(ModuleType):
    """`posteriori.report` is this package and a function: whichever is found first, it is called
    the same."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return report(*given, **named)


sys.modules[__name__].__class__ = _Callable
