"""What every part speaks of: completions, targets, draws, estimates, and the protocols between
parts.

Read `types.py` first (the outcome space that everything is measured on), then `protocols.py` and
`target.py`. It imports `data` and `posteriori.errors`.
"""
