"""What surrounds a run: its context, what users' functions see of it, signals, memory that ends,
progress and how it is shown.

Read `context.py` first. It imports `core.completions`, `distributed` and `posteriori.errors`.
"""
