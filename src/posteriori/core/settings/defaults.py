"""Numbers that the command line's help and a model that is loaded know: they wait for no library
of settings."""

from __future__ import annotations

MAX_PROMPTS = 256
"""Prompts that a target is judged on unless more are asked for."""

MOST_GIB = 1_000_000
"""More memory than any machine has."""
