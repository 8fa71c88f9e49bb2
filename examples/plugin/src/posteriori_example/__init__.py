"""An objective, a sampler and a kind of evidence for posteriori. Read `brevity.py` first."""
