"""Compositional preference models: features that a person can read, weighed by preference pairs.

Read `fit_composition.py` first, then `composition.py`. It imports `reward_models` and, of its
neighbours, `calls`.
"""
