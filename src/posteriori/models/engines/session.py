"""One running engine: which weights it has, whether it really has them, and how it draws."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel
from posteriori.core.types import Finding
from posteriori.errors import EngineError

from .backend import Backend, Drawn, Request
from .frequencies import Frequencies
from .scoring import scored, spread
from .signature import Signature, signature_of
from .verify import Comparison, compared, compared_after


class Anchor:
    """Completions whose log-probs under engine and model are known from before an update."""

    def __init__(self, completions: Completions, pi_M: Tensor) -> None:
        assert completions.token_log_prob_NL is not None, "an engine has drawn them"
        self.completions = completions
        self.q_M = completions.token_log_prob_NL[completions.mask_NL].cpu()
        self.pi_M = pi_M


class Session:
    """A backend that is started when it is first needed, and the record of its weights.

    After every change of weights `num_compared` completions are scored by the engine and by the
    model. Weights that are not there are loaded once more, and then `EngineError` is raised.
    """

    looked_at = 64
    """Draws of each call whose tokens are checked against their log-probs (`Frequencies`)."""

    def __init__(
        self,
        start: Callable[[LanguageModel], Backend],
        tolerance: float | None,
        num_compared: int,
    ) -> None:
        self._start, self._tolerance, self.num_compared = start, tolerance, num_compared
        self._backend: Backend | None = None
        self._loaded: Signature | None = None
        self._verified = False
        self._anchor: Anchor | None = None
        self._lock = threading.RLock()
        self.frequencies = Frequencies()
        self.comparison: Comparison | None = None
        self.updates = self.reloads = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or one in another process, starts a backend of its own."""
        return Session, (self._start, self._tolerance, self.num_compared)

    def close(self) -> None:
        backend, self._backend, self._loaded = self._backend, None, None
        if backend is not None:
            backend.close()

    @contextlib.contextmanager
    def having(self, lm: LanguageModel) -> Iterator[Backend]:
        """The backend, with the weights of `lm` as they are now; one caller at a time."""
        with self._lock:
            if self._backend is None:
                self._backend = self._start(lm)
            backend = self._backend
            found = signature_of(lm)
            if found != self._loaded:
                self._loaded, self._verified = None, False
                backend.load(lm)
                self._loaded = found
                self.updates += 1
            yield backend

    def draw(self, lm: LanguageModel, requests: Sequence[Request]) -> list[Drawn]:
        """Draws of the engine with the weights of `lm`. Raises `EngineError` where it turns out
        not to draw from what it reports."""
        with self.having(lm) as backend:
            drawn = backend.draw(requests)
            self.frequencies.add(drawn)
        return drawn

    def check_frequencies(self) -> None:
        fault = self.frequencies.fault()
        if fault is not None:
            raise EngineError(
                f"the engine's draws are not those of its log-probs: {fault}",
                where="Engine",
                hint="start the server without sampling defaults of its own (vllm serve "
                "--generation-config vllm), and with --logprobs-mode processed_logprobs",
            )

    def score(self, lm: LanguageModel, completions: Completions) -> Tensor:
        """log q of every token, float64 [N, L], zero beyond a completion's end."""
        with self.having(lm) as backend:
            return scored(backend, completions)

    @property
    def can_verify(self) -> bool:
        """Whether an update can be judged without fresh draws."""
        return self._anchor is not None

    def verify(self, lm: LanguageModel, fresh: Completions | None = None) -> bool:
        """Compare both sides' log-probs, if the weights have changed since the last time; says
        whether they had to be loaded again.

        By the completions that were kept from before the update, and by `fresh` ones of the first
        weights. Raises `EngineError` for an engine that twice has not taken the weights.
        """
        with self.having(lm) as backend:
            if self._verified:
                return False
            fault = self._fault(backend, lm, fresh)
            if fault is None:
                self._verified = True
                return False
            self.reloads += 1
            backend.load(lm)
            again = self._fault(backend, lm, fresh)
            if again is not None:
                self._loaded = None
                raise EngineError(
                    "the engine does not draw from the model's weights, after loading them twice: "
                    f"{again}",
                    where="Engine",
                    hint="start it with the same model and a finer dtype, or give the tolerance "
                    "(nats per token) that its rounding needs",
                )
            self._verified = True
            return True

    def _fault(self, backend: Backend, lm: LanguageModel, fresh: Completions | None) -> str | None:
        anchor = self._anchor
        if anchor is not None:
            completions = anchor.completions
        else:
            assert fresh is not None, "the first weights are judged by draws"
            completions = fresh.select(spread(len(fresh), self.num_compared))
        mask_NL = completions.mask_NL
        q_M = scored(backend, completions)[mask_NL].cpu()
        with torch.no_grad():
            pi_M = lm.token_log_prob(completions).double()[mask_NL].cpu()
        if anchor is None:
            assert completions.token_log_prob_NL is not None, "an engine has drawn them"
            drawn_M = completions.token_log_prob_NL[mask_NL].cpu()
            self.comparison = compared(q_M, pi_M, drawn_M)
        else:
            self.comparison = compared_after(q_M, pi_M, anchor.q_M, anchor.pi_M)
        tolerance = backend.tolerance if self._tolerance is None else self._tolerance
        return self.comparison.fault(tolerance)

    def findings(self) -> tuple[Finding, ...]:
        """How far q is from the model that the engine has, where that was compared."""
        found = self.comparison
        if found is None:
            return ()
        return (
            Finding(
                "info",
                "served",
                "What the engine draws was judged, by its own log-probs: they differ from the "
                f"model's by {found.error:.2g} nats per token (root mean square).",
            ),
        )

    def keep(self, completions: Completions, pi_NL: Tensor) -> None:
        """The next update is judged by some of these, drawn by the engine and scored by the model
        with the weights that both have now."""
        is_known = self.comparison is None or self._anchor is None or self.comparison.decisive
        if is_known:
            rows = spread(len(completions), self.num_compared)
            some = completions.select(rows)
            self._anchor = Anchor(some, pi_NL[rows][some.mask_NL].double().cpu())
