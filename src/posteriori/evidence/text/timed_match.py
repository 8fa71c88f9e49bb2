"""Matching that ends: some patterns take hours on a short text."""

from __future__ import annotations

from typing import Any, Literal

from posteriori.errors import EvidenceError

SECONDS = 2.0
"""For one match: patterns that are no trap take thousandths of one."""


def matches(
    pattern: Any,
    how: Literal["search", "fullmatch"],
    text: str,
    where: str,
    *,
    partial: bool = False,
) -> bool:
    """Whether a compiled pattern of the package `regex` matches the text; `partial`: how one that
    matches may begin. Raises `EvidenceError` where that takes too long."""
    match = pattern.fullmatch if how == "fullmatch" else pattern.search
    try:
        return match(text, partial=partial, timeout=SECONDS) is not None
    except TimeoutError as error:
        raise EvidenceError(
            f"the pattern {pattern.pattern[:60]!r} takes more than {SECONDS:.0f} s on "
            f"{text[:40]!r}",
            where=where,
            hint="write it without a repetition inside a repetition, such as (a+)+",
        ) from error
