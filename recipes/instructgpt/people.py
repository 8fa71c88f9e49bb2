"""What the simulated people like: what they write and how they label follow from it."""

from __future__ import annotations

import re

WARM = re.compile(
    r"\b(good|great|happy|love\w*|kind|fun|beautiful|best|nice|wonderful|friend\w*|sweet|right)\b",
    re.IGNORECASE,
)


def liked(completions: list[str], **_: object) -> list[float]:
    """1 for warm words, and a half for a sentence that comes to its end."""
    return [bool(WARM.search(text)) + 0.5 * text.rstrip().endswith(".") for text in completions]
