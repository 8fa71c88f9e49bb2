"""Rotary frequencies that depend on how long a sequence has become.

Phi-3's "longrope" takes other frequencies for the whole sequence once it is longer than the model's
original context, "dynamic" ones stretch on and on. Keys that were cached before then have the old
frequencies. Such a model has no next-token distributions of its own across that length, because its
logits for the first tokens change with later ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from posteriori.errors import PromptError


def check_positions(
    config: PreTrainedConfig, prompt_ids: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    """Raise `PromptError` unless all completions lie on one side of the length at which the
    frequencies change, each with its whole prompt (in front of it) or after it (behind)."""
    for kind, length in switches(config):
        longest = max((len(ids) for ids in prompt_ids), default=0) + max_new_tokens
        shortest = min((len(ids) for ids in prompt_ids), default=0)
        if longest <= length or (kind == "longrope" and shortest > length):
            continue
        raise PromptError(
            f"a prompt with max_new_tokens={max_new_tokens} has up to {longest} tokens, and the "
            f"model's positions ({kind}) change for the whole sequence at {length}: log-probs "
            "across that length are not those of one distribution",
            hint=f"keep prompt and completion within {length} tokens"
            + (", or give prompts that are all longer" if kind == "longrope" else ""),
        )


def switches(config: PreTrainedConfig) -> list[tuple[str, int]]:
    """(kind, length) of every set of rotary parameters whose frequencies depend on the length."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # Models with several kinds of layers have a set of parameters for each.
    every = [rope, *(each for each in rope.values() if isinstance(each, Mapping))]
    found = []
    for each in every:
        kind = each.get("rope_type", each.get("type"))
        length = _original(each, config)
        if kind in ("longrope", "dynamic") and length:
            found.append((kind, length))
    return found


def _original(parameters: Mapping[str, Any], config: PreTrainedConfig) -> int | None:
    return (
        parameters.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or getattr(config, "max_position_embeddings", None)
    )
