"""Ready-made evidence on the text: patterns, words, JSON Schema, classifiers, similarity.

Read `constraints.py` and `likelihoods.py` first, which are `posteriori.constraints` and
`posteriori.likelihoods`. It imports the kinds in `evidence`, `evidence.calls` and `models`.
"""
