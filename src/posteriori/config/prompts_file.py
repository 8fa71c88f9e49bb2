"""Prompts of a config's file."""

from __future__ import annotations

from pathlib import Path

from posteriori.data.prompts import RESERVED, PromptData, prompts

__all__ = ["RESERVED", "PromptData", "read_prompts"]


def read_prompts(path: Path) -> PromptData:
    """Raises `DataError` with file and line for anything that is not a prompt."""
    return prompts(path)
