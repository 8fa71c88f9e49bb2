"""What the kinds of relative evidence are in a config; see `posteriori.evidence.kinds`."""
