"""What `fit` settles before its first step: the objective, the policy it starts from, the checks.

Read `starting.py` first (the policy and its first weights), then the checks of the sampler and of
the settings. Nothing here imports the loop.
"""
