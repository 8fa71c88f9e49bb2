"""Fine-tuning objectives: one file for each algorithm, a few lines of mathematics over log-ratios.

Read `base.py` first, then `policy_gradient/rloo.py`. What several families share lies here, beside
them. It imports `core` and `data`; it knows neither models nor the training loop.
"""
