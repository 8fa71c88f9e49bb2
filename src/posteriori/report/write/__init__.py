"""The report as a page, as Markdown and as CSV.

Read `page.py` first. It imports `report.draw`, `report` itself, `runs` and `core`.
"""
