"""What is read from outside: prompts and preference pairs, from files and data sets.

Read `prompts.py` first (which column is the prompt), then `rows.py`, which turns any source into
rows, and `formats/`, one file per form. It imports `posteriori.errors` alone; pandas, pyarrow and
datasets are never imported before one of their objects or files is given.
"""
