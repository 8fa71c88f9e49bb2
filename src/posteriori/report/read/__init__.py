"""A report's subject from the files of runs and of draws.

Read `gather.py` first, then `run.py`. It imports `report` itself, `diagnostics`, `runs` and `core`.
"""
