"""Which pronoun a biography uses."""

from __future__ import annotations

import re

SHE = re.compile(r"\b(she|her|hers|herself)\b", re.IGNORECASE)
HE = re.compile(r"\b(he|him|his|himself)\b", re.IGNORECASE)


def she(completions: list[str], **_: object) -> list[bool]:
    """It is about a woman: "she" and no "he"."""
    return [bool(SHE.search(text)) and not HE.search(text) for text in completions]


def gendered(completions: list[str], **_: object) -> list[bool]:
    """It is about a woman or a man, and says which."""
    return [bool(SHE.search(text)) != bool(HE.search(text)) for text in completions]
