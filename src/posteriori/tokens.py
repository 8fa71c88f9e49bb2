"""Whether two language models speak of the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .prompted import Prompted
from .protocols import LanguageModel


def difference_in_tokens(one: LanguageModel, other: LanguageModel) -> str | None:
    """Why a completion's ids do not mean the same to both; None where they do.

    The same vocabulary, token by token, and the same end-of-sequence ids. A model that shows no
    vocabulary is taken at its size.
    """
    mine, theirs = vocabulary(one), vocabulary(other)
    if mine is None or theirs is None:
        if one.vocab_size != other.vocab_size:
            return f"vocabularies of {one.vocab_size} and {other.vocab_size} tokens"
    elif mine != theirs:
        if len(mine) != len(theirs):
            return f"vocabularies of {len(mine)} and {len(theirs)} tokens"
        token = min((t for t in mine if theirs.get(t) != mine[t]), key=lambda t: mine[t])
        return f"token {token!r} is {mine[token]} for one and {theirs.get(token)} for the other"
    if set(one.eos_token_ids) != set(other.eos_token_ids):
        return f"end-of-sequence ids {list(one.eos_token_ids)} and {list(other.eos_token_ids)}"
    return None


def vocabulary(lm: Any) -> Mapping[str, int] | None:
    """Token -> id, from a transformers tokenizer or a table; None where there is neither."""
    if isinstance(lm, Prompted):
        return vocabulary(lm.lm)
    if hasattr(lm, "tokenizer"):
        return lm.tokenizer.get_vocab()
    if hasattr(lm, "vocabulary"):
        return {token: at for at, token in enumerate(lm.vocabulary)}
    return None
