"""The report: one HTML file, read top to bottom, on policies and their distance from the target."""

from __future__ import annotations

from .gather import gather
from .page import write_report
from .result import Curve, PolicyResult, Subject
from .summary import figure

__all__ = ["Curve", "PolicyResult", "Subject", "figure", "gather", "write_report"]
