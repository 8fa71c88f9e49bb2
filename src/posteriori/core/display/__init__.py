"""How results look at a prompt and in a notebook, and the tables of other packages they become.

Read `shown.py` first. It imports `core.rows_of_prompts`.
"""
