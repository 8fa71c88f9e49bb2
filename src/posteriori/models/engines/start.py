"""The backends by name: what their settings need, and how each is started."""

from __future__ import annotations

from typing import NamedTuple

from posteriori.core.protocols import LanguageModel

from .backend import Backend
from .settings import EngineConfig


class Starting(NamedTuple):
    """What starts the backend for a model. Nothing is imported before."""

    config: EngineConfig

    def __call__(self, lm: LanguageModel) -> Backend:
        if self.config.backend == "http":
            from .backends.http_backend import HttpBackend

            return HttpBackend(self.config, lm)
        if self.config.backend == "llama.cpp":
            from .backends.llama_cpp_backend import LlamaCppBackend

            return LlamaCppBackend(self.config, lm)
        from .backends.vllm_backend import VllmBackend

        return VllmBackend(self.config, lm)
