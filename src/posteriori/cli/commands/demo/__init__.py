"""`posteriori demo`: the library's claim on a real language model, in two minutes on two cores.

Read `demo.py` first. It imports `cli`, `report` and `train`.
"""
