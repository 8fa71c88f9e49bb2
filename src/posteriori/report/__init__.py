"""The report: one HTML file, read top to bottom, on policies and their distance from the target."""

from __future__ import annotations

from .figures import figure
from .page import write_report
from .result import PolicyResult

__all__ = ["PolicyResult", "figure", "write_report"]
