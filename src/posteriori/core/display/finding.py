"""What a person should know of a result, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["info", "warn", "stop"]


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of a result, in words.

    Args:
        level: "info", "warn" or "stop".
        name: what a program knows it by, such as "few_effective_draws".
        message: what was found, with the number that it rests on.
        hint: what to try.

    Example:
        >>> print(po.Finding("warn", "few_draws", "Only 3 draws have weight.", "Draw more."))
        [warn] Only 3 draws have weight. Draw more.
    """

    level: Level
    name: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"[{self.level}] {self.message}" + (f" {self.hint}" if self.hint else "")
