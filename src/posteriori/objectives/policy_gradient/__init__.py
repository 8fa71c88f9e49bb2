"""Score-function gradients of KL(pi, p*): from REINFORCE to PPO, and `rl`, which has no KL.

Read `rloo.py` first. It imports `objectives` itself and `core`.
"""
