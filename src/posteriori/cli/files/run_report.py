"""What a run leaves for its report, as `report.written` writes it."""

from __future__ import annotations

from ..report.written import OWN, write_page, write_report_files

__all__ = ["OWN", "write_page", "write_report_files"]
