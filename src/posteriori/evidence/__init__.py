"""Evidence: what a completion must show to count, one file a kind."""
