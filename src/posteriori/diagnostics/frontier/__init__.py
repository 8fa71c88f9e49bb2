"""`posteriori.frontier`: what reward each nat of KL can buy, and where samplers lie beside it.

Read `curve.py` first (the curve of draws that are there), then `frontier.py` (which makes them). It
imports `diagnostics` itself, `samplers` and `core`.
"""
