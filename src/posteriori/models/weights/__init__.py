"""A model's weights: adapters on them, their copies, their fingerprint, and what is known of them.

Read `shared_copy.py` first, then `adapters.py` and `state.py`. Of `models` it imports
`transformers_loading` alone.
"""
