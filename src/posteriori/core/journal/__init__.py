"""Finished pieces of work in a folder, so that a process may end at any moment.

Read `journal.py` first; under it are whole files (`files.py`), one writer for each folder
(`lock.py`) and values as plain data. It imports `posteriori.errors` and `core.types`.
"""
