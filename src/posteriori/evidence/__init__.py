"""Evidence: what a completion must show to count. One file for each kind.

Read `reward.py` first; `calls/` is how a user's function is called, `text/` and `judge/` need no
function. It imports `core`, `models` and `reward_models`.
"""
