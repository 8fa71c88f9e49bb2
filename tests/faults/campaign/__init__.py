"""Kills, damages, fuzz, two writers and full disks in large numbers: `python tests/faults/campaign`
(`make test-faults`), or a small share of it in the normal suite (`test_campaign.py`).

Everything runs in children that are forked from one process which has imported all: a kill is a
real SIGKILL of such a child at a random moment. Read `__main__` first.
"""
