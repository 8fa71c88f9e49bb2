"""Distributional policy gradients: KL(p*, pi) and other f-divergences, by importance weights.

Read `dpg.py` first. It imports `objectives` itself and `core`.
"""
