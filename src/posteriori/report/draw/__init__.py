"""The figures: the reward-KL plane, training curves, histograms, reliability.

Read `plane.py` first; `figures.py` and `theme.py` are what all of them share. It imports `report`
itself, `diagnostics` and `core`.
"""
