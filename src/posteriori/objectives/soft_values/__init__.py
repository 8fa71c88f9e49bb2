"""Soft Q-learning from the prior: values of prefixes, distilled into the policy token by token.

Read `soft_q.py` first. It imports `objectives` itself and `core`.
"""
