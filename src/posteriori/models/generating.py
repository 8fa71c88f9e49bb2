"""`generate`: texts of a language model, for reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.core.run.out_of_memory import explained
from posteriori.core.seeds import generator
from posteriori.data.given_numbers import count
from posteriori.errors import ConfigError


@explained("generating", "set a lower num_samples, max_new_tokens or memory_gib")
def texts_of(
    lm: Any, prompts: Prompt | Sequence[Prompt], num_samples: int, max_new_tokens: int, seed: int
) -> list[Any]:
    """A text per prompt; with several samples a list of texts per prompt."""
    asked: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
    if asked and isinstance(asked[0], dict):
        asked = [asked]  # one conversation
    if not asked:
        raise ConfigError("there are no prompts", where="generate", hint='write generate(["..."])')
    count(num_samples, "num_samples", where="generate")
    drawn = lm.sample(asked, num_samples, max_new_tokens, generator(seed, "generate"))
    if num_samples == 1:
        return drawn.texts
    return [drawn.texts[at : at + num_samples] for at in range(0, len(drawn), num_samples)]
