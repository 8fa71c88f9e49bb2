"""A constraint as a grammar: which next tokens may come right, of the whole vocabulary at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from posteriori.core.hooks import tokenizer_of

from .automata.closing import Closing

_WHITE_SPACE = "[ ]?"
"""As models write it, and none that never ends, which small ones like."""

_OVERRIDES: Any = {"whitespace_pattern": _WHITE_SPACE}


@dataclass(frozen=True)
class Grammar:
    """A regular expression that the whole text matches, or a JSON Schema as JSON.

    It says roughly what a constraint says exactly: it is a hint which tokens to ask about first,
    and the constraint itself judges them.
    """

    kind: Literal["regex", "json"]
    text: str

    @staticmethod
    def of_schema(schema: Mapping[str, Any] | bool) -> Grammar:
        """Without properties that the schema does not name: they lead away from those it wants."""
        return Grammar("json", json.dumps(_closed(schema)))

    def hints(self, lm: Any) -> GrammarHints | None:
        """For the tokens of `lm`. None without the package `llguidance`, without a fast tokenizer,
        and for a grammar that llguidance cannot read."""
        tokenizer = tokenizer_of(lm)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            return None
        try:
            return _hints(self, tokenizer, lm.vocab_size, tuple(lm.eos_token_ids))
        except (ImportError, ValueError):
            return None


class GrammarHints:
    """The next tokens that llguidance lets through, for prefixes as token ids, and those after
    which the grammar cannot be completed in the tokens that are left."""

    def __init__(
        self, grammar: Grammar, tokenizer: PreTrainedTokenizerFast, size: int, eos: Sequence[int]
    ) -> None:
        import llguidance
        import llguidance.hf

        written = (
            llguidance.LLMatcher.grammar_from_regex(grammar.text)
            if grammar.kind == "regex"
            else llguidance.LLMatcher.grammar_from_json_schema(grammar.text, _OVERRIDES)
        )
        tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=list(eos))
        self._start = llguidance.LLMatcher(tokens, written, log_level=0)
        if self._start.is_error():
            raise ValueError(self._start.get_error())
        self._size = size
        self._bytes = [_bytes_of(tokens, token) for token in range(size)]
        self._closing = _closing(grammar, self._bytes)

    def likely(self, prefixes: Sequence[Sequence[int]]) -> Tensor:
        """bool [D, V]; all false for a prefix that the grammar does not know."""
        bits_DW = torch.zeros(len(prefixes), -(-self._size // 32), dtype=torch.int32)
        for row, ids in enumerate(prefixes):
            matcher = self._start.deep_copy()
            if not ids or matcher.consume_tokens(list(ids)):
                words_W = bits_DW[row]
                matcher.unsafe_compute_mask_ptr(words_W.data_ptr(), 4 * len(words_W))
        place_32 = torch.arange(32, dtype=torch.int32)
        return ((bits_DW[..., None] >> place_32) & 1).bool().flatten(1)[:, : self._size]

    def too_late(self, prefixes: Sequence[Sequence[int]], left: int) -> Tensor | None:
        """bool [D, V]: tokens after which the grammar needs more than `left` more. None for a
        grammar of which that is not known."""
        if self._closing is None:
            return None
        texts = [
            # A character of several tokens may be there in part.
            b"".join(self._bytes[token] or b"" for token in ids).decode(errors="replace")
            for ids in prefixes
        ]
        return self._closing.too_late(
            [text.rstrip("\N{REPLACEMENT CHARACTER}") for text in texts], left
        )


def _bytes_of(tokens: Any, token: int) -> bytes | None:
    """None for special tokens, which have no text."""
    if token >= tokens.vocab_size or tokens.is_special_token(token):
        return None
    return tokens.decode_bytes([token]) or None


def _closing(grammar: Grammar, bytes_V: Sequence[bytes | None]) -> Closing | None:
    """None for a JSON Schema without the package `outlines-core` or that it cannot write as a
    regular expression (one that refers to itself), and for what is too large."""
    texts_V = [None if each is None else each.decode(errors="replace") for each in bytes_V]
    try:
        if grammar.kind == "regex":
            return Closing(grammar.text, texts_V)
        outlines: Any = import_module("outlines_core.json_schema")
        pattern = outlines.build_regex_from_schema(grammar.text, whitespace_pattern=_WHITE_SPACE)
        return Closing(pattern, texts_V)
    except (ImportError, ValueError):
        return None


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in closed and "type" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


@lru_cache(maxsize=8)
def _hints(
    grammar: Grammar, tokenizer: PreTrainedTokenizerFast, size: int, eos: tuple[int, ...]
) -> GrammarHints:
    """Kept, because reading a vocabulary takes a second."""
    return GrammarHints(grammar, tokenizer, size, eos)
