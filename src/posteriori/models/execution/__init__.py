"""Sampling and scoring: what is computed with a model, by whichever pass suits it.

Read `running_model.py` first, which chooses the pass, then `generate.py` and `score.py`. It imports
every other folder of `models`.
"""
