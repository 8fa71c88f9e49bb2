"""What the simulated people look for: one group for help, the other for harm."""

from __future__ import annotations

import re

ADVICE = re.compile(
    r"\b(should|could|can|need|must|have to|better|try|help\w*|always|never|want)\b", re.IGNORECASE
)
INSULTS = re.compile(
    r"\b(stupid|idiot|fool|dumb|ugly|crazy|lazy|liar|jerk|moron|ass|damn|hell|shit|bitch|crap)\w*",
    re.IGNORECASE,
)


def helpful(completions: list[str], **_: object) -> list[float]:
    """1 for advice, and a half for a sentence that comes to its end."""
    return [bool(ADVICE.search(text)) + 0.5 * text.rstrip().endswith(".") for text in completions]


def harmless(completions: list[str], **_: object) -> list[float]:
    """-1 for an insult."""
    return [-float(bool(INSULTS.search(text))) for text in completions]
