"""Settings as strict pydantic models, shared by the Python API and TOML files.

Read `strict.py` first; `parse.py` turns values into settings or one `ConfigError`, and
`training.py` holds the settings of training. It imports `posteriori.errors` and no torch.
"""
