"""Sequential Monte Carlo over tokens, and the twists that steer it.

Read `smc.py` first, then `populations.py` and `twists.py`. It imports `samplers` itself, `models`
and `core`.
"""
