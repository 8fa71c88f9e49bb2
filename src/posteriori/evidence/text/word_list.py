"""Words and phrases that stand whole in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from posteriori.errors import ConfigError


def word_pattern(words: Sequence[str], case_sensitive: bool = False) -> re.Pattern[str]:
    """Finds any of `words` with no letter, digit or underscore on either side.

    Raises `ConfigError` for a string instead of a list, or a word that is empty.
    """
    if isinstance(words, str):
        raise ConfigError(f"'{words}' is one string", where="words", hint=f'write ["{words}"]')
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(f"{word!r} is no word", where="words", hint="leave it out")
    # The longest first: of two words that begin alike, the one that stands there is found.
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    flags = re.UNICODE if case_sensitive else re.UNICODE | re.IGNORECASE
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", flags)
