"""`Engine`: a language model that another program draws from."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel
from posteriori.core.settings.combined import combined
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ModelError
from posteriori.models.warp import Warp

from .backend import Backend
from .drawing import DrawnByEngine
from .keywords import EngineKeywords
from .served import Served
from .session import Session
from .settings import EngineConfig, check_settings
from .start import Starting


class Engine(DrawnByEngine):
    """A language model whose draws another program makes: vLLM or llama.cpp, here or behind a url.

        y ~ q, with log q(y|c) by the engine;  log pi(y|c) by the model `lm` itself

    q is near to pi and not equal to it: an engine rounds otherwise, in 16 bits by tenths of a nat
    per completion. So its draws are weighed by pi/q exactly, and how far q is from pi is reported.
    The engine starts when it is first needed, and takes the weights of `lm` as they are at each
    draw. After every change some completions are scored on both sides: an engine with old weights,
    or with a part of the new ones, is loaded once more and then refused. So is one that samples at
    another temperature than its log-probs are for.

    Give it to `posteriori.fit` and `posteriori.frontier` as `sampler`, to `posteriori.sample` as
    `proposal`, and to `posteriori.evaluate` as the policy (which judges q, what is served). A copy,
    or one in another process, starts an engine of its own.

    Args:
        lm: the model whose weights the engine gets.
        backend: "vllm", "llama.cpp" or "http", or an object of your own with the methods of
            `posteriori.models.engines.backend.Backend`.
        config: the settings, as one `EngineConfig`.
        settings: or its fields, as keywords.

    Raises:
        ConfigError: for settings that are wrong or do not go together.
        ModelError: for a model that is warped (temperature, top-p).
        EngineError: when it draws, where it cannot be started, reached or trusted.

    Example:
        >>> engine = po.Engine(po.load("tiny"), "http", url="http://localhost:8000/v1")
        >>> engine.config.compared
        16
    """

    @named_arguments
    def __init__(
        self,
        lm: LanguageModel,
        backend: str | Backend | None = None,
        *,
        config: EngineConfig | None = None,
        **settings: Unpack[EngineKeywords],
    ) -> None:
        given: dict[str, Any] = {**settings}
        if isinstance(backend, str):
            given["backend"] = backend
        self.config = combined(EngineConfig, config, given, "config", "Engine")
        self._given = None if isinstance(backend, str) else backend
        if self._given is None:
            check_settings(self.config, "Engine")
        _check_bare(lm)
        self.lm = lm
        self._session = self._new_session()

    def __repr__(self) -> str:
        name = self.config.backend if self._given is None else type(self._given).__name__
        return f"Engine({name}, {self.lm!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"lm": self.lm, "config": self.config, "_given": self._given}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = self._new_session()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _new_session(self) -> Session:
        start = Starting(self.config) if self._given is None else _Given(self._given)
        return Session(start, self.config.tolerance, self.config.compared)

    def close(self) -> None:
        """End the engine and give its memory back; it starts again when it is used."""
        self._session.close()

    def standing_for(self, lm: LanguageModel) -> Engine:
        """The same running engine, for another model of that architecture: a policy."""
        if lm is self.lm:
            return self
        _check_bare(lm)
        other = Engine.__new__(Engine)
        other.__dict__.update(self.__dict__)
        other.lm = lm
        return other

    @property
    def served(self) -> Served:
        """q, what the engine draws, as a language model that the engine scores too."""
        return Served.of(self.lm, self._session)

    def scored(self, drawn: Completions, known_NL: Tensor | None = None) -> Tensor:
        """log pi of each token of fresh draws (`known_NL` where it is known); the next change
        of weights is verified by them."""
        if known_NL is None:
            with torch.no_grad():
                known_NL = self.lm.token_log_prob(drawn).double()
        self._session.keep(drawn, known_NL)
        return known_NL

    def log_prob(self, completions: Completions) -> Tensor:
        """log pi(y|c) by the model, float64 [N], nats."""
        return self.lm.log_prob(completions)

    def token_log_prob(self, completions: Completions) -> Tensor:
        """log pi(y_t|c, y_<t) by the model, float64 [N, L]."""
        return self.lm.token_log_prob(completions)

    def in_float64(self) -> LanguageModel:
        """The model, which is what scores, in float64."""
        return self.lm.in_float64()


class _Given:
    """A backend that its maker has started."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def __call__(self, lm: LanguageModel) -> Backend:
        del lm
        return self.backend


def _check_bare(lm: LanguageModel) -> None:
    if getattr(lm, "warp", None) not in (None, Warp()):
        raise ModelError(
            "the model is warped (temperature, top_k, top_p), and an engine draws from its bare "
            "weights",
            where="Engine",
            hint="load the model without",
        )
