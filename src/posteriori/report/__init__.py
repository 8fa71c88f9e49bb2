"""The report: one HTML file, read top to bottom, on policies and their distance from the target."""

from __future__ import annotations

from .page import write_report
from .result import PolicyResult
from .summary import figure

__all__ = ["PolicyResult", "figure", "write_report"]
