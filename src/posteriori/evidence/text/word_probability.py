"""A word list as a noisy-or: each word is noticed with a probability of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.errors import ConfigError

from .plain_text import plain_texts
from .word_list import word_pattern


class WordProbability:
    """prod_w (1 - p_w)^(n_w) for the observation that no word is noticed; 1 less that for some."""

    def __init__(
        self, probability: Mapping[str, float], observed: str, read: str, case_sensitive: bool
    ) -> None:
        if not probability:
            raise ConfigError("there are no words", where="words", hint='write {"awful": 0.9}')
        for word, p in probability.items():
            if not 0.0 <= p <= 1.0:
                raise ConfigError(
                    f"the probability of '{word}' is {p}",
                    where="words",
                    hint="write a number from 0 to 1",
                )
        self.some, self.read = observed == "some", read
        self.log_unnoticed = [
            (word_pattern([word], case_sensitive), math.log1p(-p) if p < 1 else -math.inf)
            for word, p in probability.items()
        ]
        self.__name__ = f"{len(probability)} words"

    def __call__(self, prompts: list[Prompt], completions: list[Any], **_: Any) -> list[float]:
        return [self._of(text) for text in plain_texts(prompts, completions, self.read)]

    def _of(self, text: str) -> float:
        log_none = 0.0
        for pattern, log_unnoticed in self.log_unnoticed:
            times = sum(1 for _ in pattern.finditer(text))
            if times:
                log_none += times * log_unnoticed
        return -math.expm1(log_none) if self.some else math.exp(log_none)
