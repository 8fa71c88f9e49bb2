"""Balance conditions: the log-ratio of policy and target made constant, on any draws.

Read `vargrad.py` first, then `tb.py`, which learns log Z, and `subtb.py`, of pieces of a
draw. It imports `objectives` itself and
`core`.
"""
