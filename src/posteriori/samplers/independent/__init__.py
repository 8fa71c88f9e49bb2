"""Samplers whose draws are independent: importance weights, rejection, best of n.

Read `importance.py` first. It imports `samplers` itself, `samplers.smc` for draws whose next tokens
are checked, and `core`.
"""
