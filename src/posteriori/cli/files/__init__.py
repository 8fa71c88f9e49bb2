"""What the verbs leave behind: draws, evaluations, the frontier, and a run's report.

Read `evaluation.py` first. It imports `cli.console`, `config` and what it writes of.
"""
