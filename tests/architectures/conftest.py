"""A line per architecture at the end: what was measured, or how it was refused."""

from __future__ import annotations


def pytest_terminal_summary(terminalreporter):
    rows = sorted(
        dict(report.user_properties)["architecture"]
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call" and "architecture" in dict(report.user_properties)
    )
    for row in rows if len(rows) > 20 else ():
        terminalreporter.write_line(row)
