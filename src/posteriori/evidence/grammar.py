"""A constraint as a grammar: which next tokens may come right, of the whole vocabulary at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from posteriori.core.hooks import tokenizer_of

_COMPACT: Any = {"whitespace_flexible": False}
"""Without white space that never ends, which small models like."""


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
    """The next tokens that llguidance lets through, for prefixes as token ids."""

    def __init__(
        self, grammar: Grammar, tokenizer: PreTrainedTokenizerFast, size: int, eos: Sequence[int]
    ) -> None:
        import llguidance
        import llguidance.hf

        written = (
            llguidance.LLMatcher.grammar_from_regex(grammar.text)
            if grammar.kind == "regex"
            else llguidance.LLMatcher.grammar_from_json_schema(grammar.text, _COMPACT)
        )
        tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=list(eos))
        self._start = llguidance.LLMatcher(tokens, written, log_level=0)
        if self._start.is_error():
            raise ValueError(self._start.get_error())
        self._size = size

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
