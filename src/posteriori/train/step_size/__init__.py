"""How large a step is: the rate's schedule, the first step, and the rate that follows from draws.

Read `auto_rate.py` first, then `step_signal.py`. It imports `objectives` and `core`.
"""
