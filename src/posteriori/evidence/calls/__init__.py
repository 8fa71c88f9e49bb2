"""Calling users' functions: their arguments, their answers, caches, pools, time-outs and failures.

Read `call.py` first (one call), then `caller.py` (many). It imports `core`.
"""
