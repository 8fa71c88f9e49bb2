"""A language model's answer to a question about the completion, as evidence.

Read `judge.py` first; the model is in this process (`local.py`) or behind a server (`endpoint.py`).
It imports `evidence.calls` and `core`.
"""
