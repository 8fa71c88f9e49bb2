"""Completions as text that goes on from the prompt's.

A sentencepiece tokenizer drops the space before the first word of whatever it decodes, also where
that is no beginning: a prompt and a completion, each decoded alone, lack the space between them.
"""

from __future__ import annotations

from typing import Any


def decode_behind(tokenizer: Any, ids: list[list[int]], before: int | None) -> list[str]:
    """Texts without special tokens; `before` is the token to decode them behind, if there is one
    (see `token_before`)."""
    if before is None:
        return tokenizer.batch_decode(ids, skip_special_tokens=True)
    head = tokenizer.decode([before], skip_special_tokens=True)
    texts = tokenizer.batch_decode([[before, *row] for row in ids], skip_special_tokens=True)
    return [
        # A clean-up of spaces may change the seam itself.
        text.removeprefix(head) if text.startswith(head) else _alone(tokenizer, row)
        for text, row in zip(texts, ids, strict=True)
    ]


def _alone(tokenizer: Any, row: list[int]) -> str:
    return tokenizer.decode(row, skip_special_tokens=True)


def token_before(tokenizer: Any) -> int | None:
    """A word that decodes as it is, where the tokenizer drops the space before a first word; None
    where it does not, or where it has no decoder (words are then joined by spaces)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return None
    special = set(tokenizer.all_special_ids)
    words = [token for token in ("▁a", "▁the", "▁e") if token in tokenizer.get_vocab()]
    words += [token for token in tokenizer.get_vocab() if token.startswith("▁")][:1]
    for word in words:
        at = tokenizer.convert_tokens_to_ids(word)
        text = tokenizer.decode([at])
        if at not in special and tokenizer.decode([at, at]) == f"{text} {text}":
            return at
    return None
