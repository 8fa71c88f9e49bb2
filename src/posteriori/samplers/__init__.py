"""Sampling-time inference: from target and proposal to weighted draws, without training.

Read `base.py` first, then `independent/importance.py`; `sample.py` is `posteriori.sample`. It
imports `core` and `models`.
"""
