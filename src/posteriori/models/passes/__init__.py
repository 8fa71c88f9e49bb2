"""One forward pass: of a whole prompt, of tokens after it with a cache, and how much fits at once.

Read `forward.py` first; `uncached.py` is the same for models that cannot be continued. It imports
`cpu` and `prompt_tokens` of `models`.
"""
