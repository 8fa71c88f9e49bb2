"""What a run leaves for its report, as `report.write.evaluation_files` writes it."""

from __future__ import annotations

from posteriori.report.write.evaluation_files import OWN, write_page, write_report_files

__all__ = ["OWN", "write_page", "write_report_files"]
