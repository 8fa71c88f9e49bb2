"""Preference data as an objective takes them: tokens, and which pairs judge the policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from posteriori.core.occurrence import prompt_key
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.tensors import ints
from posteriori.data.preferences import Preference
from posteriori.errors import ConfigError
from posteriori.objectives.tokenised_rows import Row, TokenisedRows


class PreferenceData(TokenisedRows):
    """Tokenised pairs: completion 2i is what pair i prefers to completion 2i + 1."""

    def __init__(self, pairs: Sequence[Preference], target: Target, seed: int) -> None:
        rows = [Row(pair.prompt, (pair.chosen, pair.rejected), pair.where) for pair in pairs]
        super().__init__(rows, target, seed, "pairs")


FEWEST_PROMPTS = 20
"""From so many prompts on the usual share is held out: fewer would judge nothing."""

USUAL_SHARE = 0.1


def held_out_pairs(
    pairs: Sequence[Preference], share: float, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """Those to train on and those that judge: the pairs of a share of the prompts, whole.

    The usual share of few prompts is none. Raises `ConfigError` where another one leaves no prompt
    to train on.
    """
    keys = list(dict.fromkeys(prompt_key(pair.prompt) for pair in pairs))
    if not share or (share == USUAL_SHARE and len(keys) < FEWEST_PROMPTS):
        return list(pairs), []
    if max(1, round(share * len(keys))) >= len(keys):
        raise ConfigError(
            f"held_out={share} of {len(keys)} prompts leaves none to train on",
            hint="give pairs of more prompts, or held_out = 0",
        )
    order = ints(torch.randperm(len(keys), generator=generator(seed, "held-out pairs")))
    held = {keys[at] for at in order[: max(1, round(share * len(keys)))]}
    return (
        [pair for pair in pairs if prompt_key(pair.prompt) not in held],
        [pair for pair in pairs if prompt_key(pair.prompt) in held],
    )
