"""`posteriori.evaluate`: a policy's distance from the target and what explains it.

Read `evaluate.py` first, then `metrics.py` and `findings.py`. It imports `diagnostics` itself and
`core`.
"""
