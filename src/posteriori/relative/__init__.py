"""Evidence that compares a completion with the prior's own: its rank among them, or its mode.

Read `prior_pool.py` first: what such evidence knows of the prior, prompt by prompt, by enumeration
or by draws. It imports `diagnostics`, `evidence` and what is below them.
"""
