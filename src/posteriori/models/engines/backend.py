"""What another program has to be able to do, to draw for a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from posteriori.core.protocols import LanguageModel


class Request(NamedTuple):
    """`num_samples` completions of one prompt, of at most `max_new_tokens` tokens each.

    `top`: of so many most probable next tokens the answer has the log-probs too, at each token; 0:
    of none.
    """

    prompt_ids: tuple[int, ...]
    num_samples: int
    max_new_tokens: int
    seed: int
    top: int = 0


class Drawn(NamedTuple):
    """One completion, its end of sequence included.

    `log_probs` are those of the tokens under what the engine drew them from, nats. `top` is empty,
    or has for each token the log-probs of exactly the most probable next tokens, whether the drawn
    one is among them or not.
    """

    token_ids: list[int]
    log_probs: list[float]
    top: list[dict[int, float]]


@runtime_checkable
class Backend(Protocol):
    """A program that draws, scores, and takes other weights.

    It draws from softmax of the logits as they are: temperature 1, no top-k or top-p, no penalty.
    A completion ends with its first end of sequence, or after `max_new_tokens`. Raises
    `EngineError` where it cannot.
    """

    tolerance: float
    """By how much its log-probs may differ from the model's own by rounding: the root of the mean
    square over tokens, nats."""

    def load(self, lm: LanguageModel) -> None:
        """Draw as `lm` from now on; called again after each change of its weights."""
        ...

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """The completions of all requests, request by request."""
        ...

    def score(
        self, prompt_ids: Sequence[tuple[int, ...]], completion_ids: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """log q of every token of every completion, one prompt each."""
        ...

    def close(self) -> None:
        """Let go of its memory and processes; called once, at the end."""
        ...
