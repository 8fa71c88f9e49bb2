"""`Served`: what an engine or a server draws, as a language model of its own."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel
from posteriori.core.registry import language_model
from posteriori.core.settings.combined import combined
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import EngineError

from .drawing import DrawnByEngine
from .foreign import Foreign
from .keywords import ServerKeywords
from .settings import EngineConfig, check_settings
from .start import Starting


class Served(DrawnByEngine):
    """A policy behind an OpenAI-compatible server, whose draws and log-probs are the server's.

        y ~ q,  log q(y|c): what is served, whatever weights, precision and sampling it has

    The server has to return log-probs of its draws and of prompts (`vllm serve`, llama.cpp's own
    server and others that know `echo` or `prompt_logprobs`), and to draw at temperature 1. What it
    says is checked: the log-probs of draws against those of the same texts as prompts, and how
    often probable tokens come against their probability. A server that samples by top-p or at
    another temperature is found out, and findings of level "stop" say so.

    Args:
        like: a model with the server's tokens, mostly the target's prior.
        url: of the server, such as "http://localhost:8000/v1".
        model: the name under which it has the model; left out, the only one it has.
        settings: more fields of `EngineConfig`: api_key_env, timeout, retries, workers,
            tolerance, compared.

    Raises:
        ConfigError: for settings that are wrong.
        EngineError: when it draws or scores, where the server does not answer as it has to.

    Example:
        >>> policy = po.Served(po.load("tiny"), url="http://localhost:8000/v1")
        >>> policy.vocab_size
        4096
    """

    @named_arguments
    def __init__(
        self,
        like: LanguageModel,
        *,
        url: str,
        model: str | None = None,
        **settings: Unpack[ServerKeywords],
    ) -> None:
        given: dict[str, Any] = {**settings, "backend": "http", "url": url, "model": model}
        self.config = combined(EngineConfig, None, given, "config", "Served")
        check_settings(self.config, "Served")
        self.lm = language_model(like, "model with the server's tokens")
        self._session = Foreign(Starting(self.config), self.config.tolerance, self.config.compared)

    @classmethod
    def of(cls, lm: LanguageModel, session: Any) -> Served:
        """What a session that runs already draws."""
        made = cls.__new__(cls)
        made.lm, made._session = lm, session
        return made

    def __repr__(self) -> str:
        return f"Served({self.lm!r})"

    def served_findings(self) -> tuple[Finding, ...]:
        """What is to be known of the draws that it has made."""
        return self._session.findings()

    def log_prob(self, completions: Completions) -> Tensor:
        """log q(y|c), float64 [N], nats; without gradient."""
        return self.token_log_prob(completions).sum(-1)

    def token_log_prob(self, completions: Completions) -> Tensor:
        """log q(y_t|c, y_<t), float64 [N, L]; without gradient."""
        return self._session.score(self.lm, completions)

    def in_float64(self) -> LanguageModel:
        """Raises `EngineError`: rounding is part of what an engine draws."""
        raise EngineError(
            "what an engine draws cannot be enumerated in float64",
            where="Served",
            hint="use the model itself, or posteriori.evaluate",
        )
