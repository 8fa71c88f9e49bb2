"""Markov chains over completions: their moves, their acceptance, and whether they have mixed.

Read `imh.py` first, then `suffix_moves.py`. It imports `samplers` itself and `core`.
"""
