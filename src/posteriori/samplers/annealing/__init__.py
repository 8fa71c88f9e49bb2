"""Annealed paths from the proposal to the target, and back for a bound on log Z from above.

Read `annealed.py` first. It imports `samplers.mcmc` for moves, `samplers.smc` for resampling, and
`core`.
"""
