"""A server with weights of its own: it is asked, and what it answers is checked against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel
from posteriori.core.types import Finding

from .backend import Backend, Drawn, Request
from .frequencies import Frequencies
from .scoring import scored, spread
from .verify import Comparison, compared

_TOLERANCE = 0.1
"""Nats per token, root mean square, between two passes of one model in 16 bits."""


class Foreign:
    """A backend whose weights are its own. Nothing is refused; `findings` say what is wrong."""

    looked_at = 256

    def __init__(
        self,
        start: Callable[[LanguageModel], Backend],
        tolerance: float | None,
        num_compared: int,
    ) -> None:
        self._start, self.num_compared = start, num_compared
        self.tolerance = _TOLERANCE if tolerance is None else tolerance
        self._backend: Backend | None = None
        self.frequencies = Frequencies()
        self.comparison: Comparison | None = None

    can_verify = False

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or one in another process, starts a backend of its own."""
        return Foreign, (self._start, self.tolerance, self.num_compared)

    def _running(self, lm: LanguageModel) -> Backend:
        if self._backend is None:
            self._backend = self._start(lm)
        return self._backend

    def draw(self, lm: LanguageModel, requests: Sequence[Request]) -> list[Drawn]:
        drawn = self._running(lm).draw(requests)
        self.frequencies.add(drawn)
        return drawn

    def score(self, lm: LanguageModel, completions: Completions) -> Tensor:
        return scored(self._running(lm), completions)

    def verify(self, lm: LanguageModel, fresh: Completions | None = None) -> bool:
        """Score some of the first draws as prompts."""
        if self.comparison is None and fresh is not None:
            few = fresh.select(spread(len(fresh), self.num_compared))
            assert few.token_log_prob_NL is not None, "an engine has drawn them"
            mask_NL = few.mask_NL
            q_NL = self.score(lm, few)
            self.comparison = compared(few.token_log_prob_NL[mask_NL], q_NL[mask_NL])
        return False

    def check_frequencies(self) -> None:
        """Nothing is refused: a report says it."""

    def findings(self) -> tuple[Finding, ...]:
        found: list[Finding] = []
        if self.comparison is not None and self.comparison.error > self.tolerance:
            found.append(
                Finding(
                    "stop",
                    "served_warped",
                    "The server's log-probs of its draws differ from those that it gives the same "
                    f"texts as prompts by {self.comparison.error:.3g} nats per token: it samples "
                    "by top-p or top-k, at another temperature, or with a penalty.",
                    _HINT,
                )
            )
        fault = self.frequencies.fault()
        if fault is not None:
            found.append(
                Finding("stop", "served_otherwise", f"{fault[0].upper()}{fault[1:]}.", _HINT)
            )
        return tuple(found)


_HINT = (
    "No figure of this report is right. Serve the bare model (vllm serve --generation-config vllm "
    "--logprobs-mode processed_logprobs), without sampling settings that the server forces."
)
