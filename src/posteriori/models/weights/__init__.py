"""A model's weights: adapters on them, their copies, their fingerprint, and the lock they share.

Read `adapters.py` first, then `state.py`. Of `models` it imports `transformers_loading` alone.
"""
