"""`posteriori.frontier`: what reward each nat of KL can buy, and where samplers lie beside it.

Read `frontier.py` first. It imports `diagnostics` itself, `samplers` and `core`.
"""
