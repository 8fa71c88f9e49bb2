"""`posteriori.exact`: enumeration, so that every number is exact.

Read `exact.py` first. It imports `diagnostics` itself and `core`.
"""
