"""Verbs over several processes: what all of them call alike, and actors that share the prompts.

Read `together.py` first, then `ray_actors.py`. It imports `core` and `posteriori.distributed`.
"""
