"""The parts of `benchmarks/quality.py`. Read `worlds.py` first, then `entries.py`.

A cell of the table is one entry (a way to get a policy) in one world (a target) with one number of
draws and one seed. Nothing here is imported by the library.
"""
