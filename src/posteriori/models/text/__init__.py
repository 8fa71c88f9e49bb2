"""Between texts and tokens: prompts as token ids, token ids as texts, pairs for classifiers.

Read `prompt_tokens.py` first. It imports `core`, `data` and `models.weights`.
"""
