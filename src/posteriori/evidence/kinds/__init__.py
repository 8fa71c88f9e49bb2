"""What each kind of evidence is in a config: its settings, their check, and how it is made of them.

Read `reward.py` first. Nothing here imports torch before evidence is made; a kind is found by its
name in `core.registry`, and no other file knows which kinds there are.
"""
