"""Answers in OpenAI's shape, whole or in pieces, each with what the library says of its draws.

What OpenAI's answers do not have stands under `posteriori`, which its clients ignore or hand over.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from posteriori.core.types import Estimate
from posteriori.runs.directory import jsonable

from .posterior import Drawn, completion_tokens, prompt_tokens
from .texts import Choice, Piece


@dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Args:
        kind: "chat" or "text".
        model: the name that is served.
        drawn: the draws.
        choices: the same as texts.
        sampler: the sampler's name.
        of_target: False where its draws follow another law than the target's.
        with_log_probs: whether log-probs of tokens were asked for.
    """

    kind: str
    model: str
    drawn: Drawn
    choices: Sequence[Choice]
    sampler: str
    sampler_guarantee: str
    of_target: bool
    with_log_probs: bool

    def whole(self) -> dict[str, Any]:
        """The body of an answer in one piece."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        made = [self._whole_choice(at, each) for at, each in enumerate(self.choices)]
        return {**self._head(name), "choices": made, "usage": self.usage(), **self.about()}

    def events(self, *, include_usage: bool) -> Iterator[str]:
        """The same as server-sent events: the draws are finished, and come token by token."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        head = self._head(name)
        for at, choice in enumerate(self.choices):
            if self.kind == "chat":
                first = {"role": "assistant", "content": ""}
                yield _event({**head, "choices": [_part(at, "delta", first)]})
            for piece in choice.pieces:
                yield _event({**head, "choices": [self._piece(at, piece)]})
            last: dict[str, Any] = {"delta": {}} if self.kind == "chat" else {"text": ""}
            end = {"index": at, **last, "finish_reason": choice.finish_reason, "logprobs": None}
            about = self.about() if at + 1 == len(self.choices) else {}
            yield _event({**head, "choices": [{**end, **_of_choice(choice)}], **about})
        if include_usage:
            yield _event({**head, "choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts and of the answer's draws; what the sampler took in all is in the
        cost."""
        asked, given = prompt_tokens(self.drawn.chosen), completion_tokens(self.drawn.chosen)
        return {
            "prompt_tokens": asked,
            "completion_tokens": given,
            "total_tokens": asked + given,
        }

    def about(self) -> dict[str, Any]:
        """What the library says of the draws."""
        drawn = self.drawn
        report = {
            "sampler": self.sampler,
            "guarantee": drawn.guarantee,
            "sampler_guarantee": self.sampler_guarantee,
            "of_target": self.of_target,
            "seed": drawn.wanted.seed,
            "max_new_tokens": drawn.wanted.max_new_tokens,
            "num_draws": len(drawn.pool) // len(drawn.wanted.prompts),
            "log_z": [_estimate(each) for each in drawn.log_z],
            "ess": drawn.ess,
            "findings": [asdict(each) for each in drawn.findings],
            "cost": asdict(drawn.pool.cost),
        }
        return {"posteriori": jsonable(report)}

    def _head(self, name: str) -> dict[str, Any]:
        prefix = "chatcmpl-" if self.kind == "chat" else "cmpl-"
        return {
            "id": prefix + uuid.uuid4().hex,
            "object": name,
            "created": int(time.time()),
            "model": self.model,
        }

    def _whole_choice(self, at: int, choice: Choice) -> dict[str, Any]:
        log_probs = self._log_probs(choice.pieces) if self.with_log_probs else None
        end = {"finish_reason": choice.finish_reason, "logprobs": log_probs}
        if self.kind == "chat":
            text: Any = {"role": "assistant", "content": choice.text, "refusal": None}
            return {"index": at, "message": text, **end, **_of_choice(choice)}
        return {"index": at, "text": choice.text, **end, **_of_choice(choice)}

    def _piece(self, at: int, piece: Piece) -> dict[str, Any]:
        log_probs = self._log_probs([piece]) if self.with_log_probs else None
        if self.kind == "chat":
            return {**_part(at, "delta", {"content": piece.text}), "logprobs": log_probs}
        return {**_part(at, "text", piece.text), "logprobs": log_probs}

    def _log_probs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Of the text's own tokens, under the prior."""
        if self.kind == "chat":
            content = [
                {
                    "token": piece.text,
                    "logprob": piece.log_prob,
                    "bytes": list(piece.text.encode("utf-8", "replace")),
                    "top_logprobs": [],
                }
                for piece in pieces
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [piece.text for piece in pieces],
            "token_logprobs": [piece.log_prob for piece in pieces],
            "top_logprobs": None,
            "text_offset": [piece.start for piece in pieces],
        }


def _part(at: int, name: str, what: Any) -> dict[str, Any]:
    return {"index": at, name: what, "finish_reason": None, "logprobs": None}


def _of_choice(choice: Choice) -> dict[str, Any]:
    report = {
        "prompt_index": choice.prompt_index,
        "log_prior": choice.log_prior,
        "log_evidence": choice.log_evidence,
        "reward": choice.reward,
    }
    return {"posteriori": jsonable(report)}


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "value": found.value,
        "standard_error": found.standard_error,
        "kind": found.kind,
        "num_draws": found.num_draws,
    }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, allow_nan=False)}\n\n"
