"""Sampling-time inference, one file an algorithm: from target and proposal to weighted draws."""
