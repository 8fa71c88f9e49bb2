"""How large a regular expression becomes when it is compiled, from its text alone."""

from __future__ import annotations

import re

from posteriori.errors import ConfigError

MOST = 100_000
"""Copies of a pattern's parts; compiling so many takes about a second."""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(|\)|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)


def check_pattern_size(pattern: str, where: str) -> None:
    """Raise `ConfigError` for nested repetitions such as ((a{1000}){1000}){1000}: an engine writes
    out what is repeated, and takes hours and all memory for it."""
    if _size(pattern) > MOST:
        raise ConfigError(
            f"the pattern {pattern[:60]!r} repeats its parts more than {MOST:,} times",
            where=where,
            hint="write smaller numbers in {..}, or use + and *",
        )


def _size(pattern: str) -> int:
    """The largest number of copies of anything inside nested counted repetitions."""
    totals, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text == "(":
            totals.append(0)
            last = 0
        elif text == ")" and len(totals) > 1:
            last = totals.pop()
            totals[-1] += last
        elif text[0] == "{" and text[-1] == "}" and (token[1] or token[2]):
            times = max(int(each[:9]) for each in (token[1], token[2]) if each)
            totals[-1] += last * (max(times, 1) - 1)
            last *= max(times, 1)
        elif text not in ("+", "*", "?"):
            last = 1
            totals[-1] += 1
        if totals[-1] > 1000 * MOST:
            return totals[-1]
    # Beyond what is written out in the pattern itself.
    return max(0, sum(totals) - len(pattern))
