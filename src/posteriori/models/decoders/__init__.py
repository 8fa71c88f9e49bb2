"""Known architectures, written out: transformers' layers without what it builds around them.

Read `decoder.py` first, then `gpt2.py`; `known.py` says which models are taken. It imports
`passes`, `cpu` and `weights` of `models`.
"""
