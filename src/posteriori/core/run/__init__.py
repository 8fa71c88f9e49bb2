"""What surrounds a run: its context, what users' functions see of it, signals, memory that ends.

Read `context.py` first. It imports `core.types` and `posteriori.errors`.
"""
