"""Episodes: a language model and an environment that answers it, as one distribution.

Read `in_environment.py` first, then `rollout.py`. `episode.py` says what an environment is.
"""
