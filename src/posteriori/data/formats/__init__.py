"""Files and saved data sets, as rows of plain Python values.

Read `files.py` first. Packages that only one format needs are imported when a file of that format
is read. It imports `data.given_numbers` and `posteriori.errors`.
"""
