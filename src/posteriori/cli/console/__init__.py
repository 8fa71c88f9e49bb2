"""What the verbs print with: live progress, tables, and text that commands no terminal.

Read `output.py` first. It imports `core` and `runs`.
"""
