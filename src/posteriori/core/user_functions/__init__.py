"""What users give as evidence, checked before it is called, and where in their files it stands.

Read `given_evidence.py` first. It imports `core.protocols` and `posteriori.errors`.
"""
