"""Imitation of the prior's better draws: weighted (`rwr`) or accepted (`raft`).

Read `rwr.py` first. It imports `objectives` itself and `core`.
"""
