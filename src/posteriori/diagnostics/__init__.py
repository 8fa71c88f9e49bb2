"""How far a policy is from the target: exactly on tiny spaces, by estimates with error bars.

Read `evaluate/evaluate.py` first; `mixture.py` is the estimator under it. What `evaluate/`,
`exact/` and `frontier/` share lies here. It imports `core` and `samplers`.
"""
