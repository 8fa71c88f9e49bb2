"""The answers of OpenAI-compatible servers, in the forms that there are, as tokens and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn, TypeGuard

from posteriori.core.protocols import LanguageModel
from posteriori.errors import EngineError
from posteriori.models.engines.backend import Drawn

_ID = "token_id:"
"""How vLLM writes a token where it is asked for ids."""


class Answers:
    """Reads a server's answers, about a model with the tokens of `lm`. Raises `EngineError`."""

    def __init__(self, url: str, lm: LanguageModel) -> None:
        self.url, self.lm = url, lm
        self.eos = tuple(lm.eos_token_ids)

    def choices(self, answer: Any, number: int) -> list[dict[str, Any]]:
        """Its choices, in order."""
        found = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            self._refuse("has no choices", "is this the server's API? its url mostly ends in /v1")
        if len(found) != number:
            self._refuse(
                f"has {len(found)} choices for {number}", "the server has to keep `n` and lists"
            )
        try:
            return sorted(found, key=lambda each: int(each.get("index", 0)))
        except (TypeError, ValueError):
            self._refuse("numbers its choices by what is no number", _NOT_COMPATIBLE)

    def drawn(self, choice: dict[str, Any], top: int) -> Drawn:
        """A completion. Where the server ended it and left the end of sequence out, it is there
        without a log-prob."""
        tokens, log_probs, tops = self._log_probs(choice)
        given = choice.get("token_ids")
        ids = [*given] if _are_ids(given) else [self._id(token) for token in tokens]
        if len(ids) == len(log_probs) + 1 and ids[-1] in self.eos:
            return Drawn(ids, log_probs, self._tops(tokens, tops, top))
        if len(ids) != len(log_probs):
            self._refuse(f"has {len(ids)} tokens and {len(log_probs)} log-probs", _NOT_COMPATIBLE)
        ended = bool(ids) and ids[-1] in self.eos
        if choice.get("finish_reason") == "stop" and not ended:
            if len(self.eos) != 1:
                self._refuse(
                    f"does not say which of {list(self.eos)} ended a completion",
                    "use a server that returns token ids (return_token_ids), such as `vllm serve`",
                )
            ids.append(self.eos[0])
        return Drawn(ids, log_probs, self._tops(tokens, tops, top))

    def of_prompt(
        self, choice: dict[str, Any], prompt: Sequence[int], ids: Sequence[int]
    ) -> list[float]:
        """The log-probs of `ids` behind `prompt`, where both together were the prompt."""
        first, last = len(prompt), len(prompt) + len(ids)
        rows = choice.get("prompt_logprobs")
        if isinstance(rows, list) and len(rows) == last:
            found = [_of_row(row, token) for row, token in zip(rows[first:], ids, strict=True)]
        else:
            tokens, log_probs, _ = self._log_probs(choice)
            if len(log_probs) < last:
                self._refuse("has no log-probs of the prompt", _NO_PROMPTS)
            found = log_probs[first:last]
            sent = zip(tokens[first:last], ids, strict=True)
            odd = [token for token, sent_id in sent if self._known(token) not in (None, sent_id)]
            if odd:
                self._refuse(f"has token {odd[0]!r} where another was sent", _NOT_COMPATIBLE)
        if not all(isinstance(each, float | int) and each <= 1e-3 for each in found):
            self._refuse("has no log-probs of the prompt", _NO_PROMPTS)
        return [float(each) for each in found]

    def _log_probs(
        self, choice: dict[str, Any]
    ) -> tuple[list[Any], list[float], list[dict[Any, float]]]:
        """Tokens (as ids, or as the server writes them), their log-probs, and those of the most
        probable ones."""
        given = choice.get("logprobs")
        try:
            if isinstance(given, dict) and isinstance(given.get("content"), list):
                # The form of chats, which llama.cpp's server has for all.
                rows = given["content"]
                tokens = [row.get("id", row["token"]) for row in rows]
                tops = [
                    {t.get("id", t["token"]): float(t["logprob"]) for t in row["top_logprobs"]}
                    for row in rows
                ]
                return tokens, [_number(row["logprob"]) for row in rows], tops
            if isinstance(given, dict):
                tops = [dict(row or {}) for row in given.get("top_logprobs") or []]
                log_probs = [_number(each) for each in given["token_logprobs"]]
                return list(given["tokens"]), log_probs, tops
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            self._refuse(f"has log-probs of no known form ({error})", _NOT_COMPATIBLE)
        return self._refuse("has no log-probs", "start the server so that it returns logprobs")

    def _tops(
        self, tokens: list[Any], tops: list[dict[Any, float]], top: int
    ) -> list[dict[int, float]]:
        """Of each token the most probable next ones. One that its text does not identify is left
            out:
        it counts as one of the others then, whether it was drawn or not."""
        if top == 0 or len(tops) != len(tokens):
            return []
        found = []
        for token, row in zip(tokens, tops, strict=True):
            # The drawn token came along with the most probable ones.
            others = row if len(row) <= top else {k: v for k, v in row.items() if k != token}
            known = {self._known(key): float(value) for key, value in others.items()}
            known.pop(None, None)
            found.append(known)
        return found

    def _id(self, token: Any) -> int:
        found = self._known(token)
        if found is None:
            self._refuse(
                f"writes a token as {str(token)[:40]!r}, which no single token of the model is",
                "use a server that returns token ids (return_token_ids), such as `vllm serve`",
            )
        return found

    def _known(self, token: Any) -> int | None:
        if isinstance(token, int):
            return token
        if isinstance(token, str) and token.startswith(_ID) and token[len(_ID) :].isdecimal():
            return int(token[len(_ID) :])
        return self._by_text.get(token)

    @cached_property
    def _by_text(self) -> Mapping[str, int]:
        """Each token's text, where no other token has the same."""
        texts = self.lm.decode([[at] for at in range(self.lm.vocab_size)])
        found: dict[str, int] = {}
        twice = set()
        for at, text in enumerate(texts):
            if text in found:
                twice.add(text)
            found[text] = at
        return {text: at for text, at in found.items() if text not in twice and text}

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise EngineError(f"the answer of {self.url} {what}", where="Engine", hint=hint)


_NOT_COMPATIBLE = "the server has to answer as OpenAI's completions API does"
_NO_PROMPTS = "the server has to score prompts: by prompt_logprobs or echo"


def _are_ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int for each in value)


def _number(value: Any) -> float:
    """NaN for the first token of a text, of which nothing is known."""
    return math.nan if value is None else float(value)


def _of_row(row: Any, token: int) -> Any:
    """One position of `prompt_logprobs`: by token id, a number or {"logprob": number}."""
    found = row.get(str(token), row.get(token)) if isinstance(row, dict) else None
    return found.get("logprob") if isinstance(found, dict) else found
