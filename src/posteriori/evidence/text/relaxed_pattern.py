"""A pattern without what looks around itself: it matches wherever the pattern does, and more."""

from __future__ import annotations

import regex

_TOKEN = regex.compile(
    r"\\[pPN]\{[^}]*\}|\\[\s\S]|\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]|\(\?<?[=!]|\(\?>|[*+?]\+|[\s\S]"
)
"""One character, a set, an escape, how a group that looks around or an atomic one begins, or a
possessive quantifier."""

_AROUND = frozenset(("(?=", "(?!", "(?<=", "(?<!"))
_HERE = frozenset((r"\b", r"\B", r"\m", r"\M", r"\Z", r"\z", "$"))
"""What says something of a place and takes no character. `^` and \\A are settled at once."""

_GOES_BACK = {"(?>": "(?:", "*+": "*", "++": "+", "?+": "?"}


def relaxed(pattern: str) -> str | None:
    """The pattern with its assertions about what comes next, or came before, always true; None
    where that would be another pattern in more than this. Atomic groups go back as others do.

    What it does not match, however it goes on, the pattern does not match: so a prefix can be
    judged by it, where the pattern itself would take the end of the prefix for that of the text.
    """
    parts: list[str] = []
    depth = 0
    for found in _TOKEN.finditer(pattern):
        part = found[0]
        is_around = part in _AROUND
        if depth:
            # Inside a group that looks around: it is left out, with the groups inside it.
            depth += int(part in ("(", "(?>") or is_around) - int(part == ")")
        elif is_around:
            depth = 1
            parts.append("(?:)")
        else:
            # What does not go back would go on from what an assertion would have refused.
            parts.append("(?:)" if part in _HERE else _GOES_BACK.get(part, part))
    return None if depth else "".join(parts)
