"""The arithmetic of a pass: which kernel multiplies fastest, and in which precision.

Read `matmul.py` first, then `packing.py`; `precision.py` also decides for GPUs. It imports no other
folder of `models`.
"""
