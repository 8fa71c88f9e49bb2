"""What is seen of a run while it trains: periodic evaluation, early stopping, trackers.

Read `periodic_evaluation.py` first. It imports `diagnostics`, `evidence`, `runs` and `core`.
"""
