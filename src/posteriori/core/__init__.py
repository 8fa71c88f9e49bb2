"""What every part speaks of: completions, targets, draws, estimates, and the protocols between
parts.

Read `types.py` first (the outcome space that everything is measured on), then `protocols.py` and
`target.py`. Its folders: `run/` is what surrounds a run, `settings/` how settings are parsed,
`journal/` finished work on disk, `display/` how results look, `processes/` verbs over several
processes, `user_functions/` what users give. It imports `data`, `distributed` and
`posteriori.errors`.
"""
