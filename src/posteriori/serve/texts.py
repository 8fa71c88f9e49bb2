"""A draw as text: cut at stop sequences, in the pieces that its tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posteriori.core.protocols import LanguageModel
from posteriori.core.tensors import ints
from posteriori.core.types import Draws


@dataclass(frozen=True)
class Piece:
    """One token's share of a text."""

    text: str
    start: int
    log_prob: float
    """Under the prior, nats."""


@dataclass(frozen=True)
class Choice:
    """One draw of an answer."""

    text: str
    finish_reason: str
    pieces: tuple[Piece, ...]
    """Empty unless they were asked for."""
    prompt_index: int
    log_prior: float
    log_evidence: float
    reward: float


def choices(
    drawn: Draws, lm: LanguageModel, stops: Sequence[str], *, in_pieces: bool
) -> list[Choice]:
    """The draws in order; `in_pieces` needs the prior's log-prob of each token."""
    done = drawn.completions.ended_N.tolist()
    log_prior, log_evidence = drawn.log_prior_N.tolist(), drawn.log_evidence_N.tolist()
    reward, prompts = drawn.reward_N.tolist(), ints(drawn.completions.prompt_index_N)
    found: list[Choice] = []
    for row, whole in enumerate(drawn.texts):
        cut = _first(whole, stops)
        text = whole if cut is None else whole[:cut]
        pieces: tuple[Piece, ...] = ()
        if in_pieces:
            assert drawn.token_log_prior_NL is not None
            log_probs = drawn.token_log_prior_NL[row].tolist()
            pieces = _pieces(lm, drawn.completion_ids[row], whole, len(text), log_probs)
        reason = "stop" if cut is not None or done[row] else "length"
        numbers = log_prior[row], log_evidence[row], reward[row]
        found.append(Choice(text, reason, pieces, prompts[row], *numbers))
    return found


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop sequence begins; None where there is none."""
    places = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return min(places, default=None)


def _pieces(
    lm: LanguageModel, ids: list[int], whole: str, end: int, log_probs: list[float]
) -> tuple[Piece, ...]:
    """The tokens before the end of sequence and before `end`, each with what the text is longer by
    it. A token that ends within a character has no text; the one that completes it has it all."""
    eos = set(lm.eos_token_ids)
    own = [token for token in ids if token not in eos]
    begun = lm.decode([own[: at + 1] for at in range(len(own))])
    ends, last = [], 0
    for text in begun:
        if whole.startswith(text):
            last = max(last, len(text))
        ends.append(last)
    if ends:
        ends[-1] = len(whole)
    found: list[Piece] = []
    start = 0
    for stop, log_prob in zip(ends, log_probs, strict=False):
        if start >= end and end < len(whole):
            break  # the stop sequence began here
        found.append(Piece(whole[start : min(stop, end)], min(start, end), log_prob))
        start = stop
    return tuple(found)
