"""A TOML file, step by step: values, settings, and a plan that names everything that will be
loaded.

Read `read_config.py` first, then `check.py`. Nothing here imports torch before something is built.
It imports everything below it.
"""
