"""The verbs, one file for each.

Read `fit.py` first. A verb imports `cli.console`, `cli.files` and `config` at once, and what
imports torch only when it runs.
"""
