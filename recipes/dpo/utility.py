"""What the simulated people like: their utility, which dpo never sees."""

from __future__ import annotations

import re

WARM = re.compile(
    r"\b(good|great|happy|love\w*|kind|fun|beautiful|best|nice|wonderful|friend\w*|sweet|funny|"
    r"amazing|thank\w*|enjoy\w*|delicious|perfect|fantastic|helpful|warm|cute|smart|pleasant)\b",
    re.IGNORECASE,
)
HARSH = re.compile(
    r"\b(bad|hate\w*|stupid|damn|hell|idiot\w*|awful|terrible|crap\w*|shit\w*|ass|jerk\w*|lazy|"
    r"mean|ugly|boring|annoy\w*|rude|worst|dumb|fool\w*|poor|dead|sick|wrong|fuck\w*)\b",
    re.IGNORECASE,
)


def liked(completions: list[str], **_: object) -> list[float]:
    """1 for warm words, -1 for harsh ones, 0 for neither or both."""
    return [bool(WARM.search(text)) - bool(HARSH.search(text)) + 0.0 for text in completions]
