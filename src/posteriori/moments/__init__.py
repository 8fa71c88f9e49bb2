"""Moments as evidence: lambda such that features have wanted means under the target.

Read `moments.py` first, then `fit.py`. It stands above `samplers` and `diagnostics`, because lambda
is fitted by drawing.
"""
