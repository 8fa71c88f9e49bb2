"""Prompts and preference pairs from what users have: data sets, tables, files.

`rows` turns any source into dictionaries with a place each, `files` and `tables` read the formats,
`prompts` says which column is the prompt. Read `prompts` first. Imports errors and types only;
pandas, pyarrow and datasets are never imported before one of their objects or files is given.
"""
