"""The first number of a completion is the answer."""

from __future__ import annotations

import re

NUMBER = re.compile(r"\d+")


def correct(completions: list[str], answer: list[str], **_: object) -> list[bool | None]:
    """The first number is the right one; None where there is no number to judge."""
    found = [NUMBER.search(text) for text in completions]
    return [
        None if number is None else number.group() == right
        for number, right in zip(found, answer, strict=True)
    ]
