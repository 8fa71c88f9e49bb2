"""The ready-made constraints and likelihoods, as the two modules that hold them."""

from . import constraints, likelihoods

__all__ = ["constraints", "likelihoods"]
