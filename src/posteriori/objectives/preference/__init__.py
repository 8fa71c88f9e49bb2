"""Pairwise losses against preference data.

Read `pairs.py` first, then `dpo.py`. It imports `objectives` itself, `data` and `core`.
"""
