"""A run's directory, and the fingerprint of the target that its work is for.

Read `directory.py` first; `target_fingerprint.py` decides whether a run may be resumed, and
`target_journal.py` keeps its finished pieces. It imports `core` and `models`.
"""
