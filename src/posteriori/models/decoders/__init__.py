"""Known architectures, written out: transformers' layers without what it builds around them."""
