"""Reward models from human preferences: trained, calibrated, and honest about what they know.

Read `fit_reward.py` first, then `reward_model.py`; `simulate_preferences.py` labels pairs by a
known utility. It imports `core`, `data`, `models` and `runs`.
"""
