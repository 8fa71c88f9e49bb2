"""How many tokens a text still needs until a regular expression matches all of it.

Read `closing.py` first; it rests on `automaton.py`, and that on `positions.py`. Imports nothing of
the library.
"""
