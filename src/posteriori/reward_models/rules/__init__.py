"""Rule models: what says of a completion whether it keeps a rule, learned from labelled violations.

Read `fit_rules.py` first, then `rule_model.py`. It imports its neighbours above, and what they do.
"""
