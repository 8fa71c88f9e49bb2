"""The backends by name: what their settings need, and how each is started."""

from __future__ import annotations

from typing import NamedTuple

from posteriori.core.protocols import LanguageModel
from posteriori.errors import ConfigError

from .backend import Backend
from .settings import EngineConfig

_OF_SERVERS = {"url", "model", "adapter_dir", "api_key_env", "timeout", "retries", "workers"}
_OF_VLLM = {"dtype", "memory_gib", "gpu_share", "eager"}


def check_settings(config: EngineConfig, where: str) -> None:
    """Raise `ConfigError` for settings that do nothing beside each other."""
    idle = _OF_VLLM if config.backend == "http" else _OF_SERVERS
    given = sorted(name for name in config.model_fields_set & idle if getattr(config, name))
    other = "vllm" if config.backend == "http" else "http"
    if given:
        raise ConfigError(
            f"'{given[0]}' does nothing with the backend '{config.backend}'",
            where=where,
            hint=f"remove it, or use the backend '{other}'",
        )
    if config.backend == "http" and config.url is None:
        raise ConfigError(
            "the backend 'http' needs the server's url",
            where=where,
            hint='write url="http://localhost:8000/v1"',
        )


class Starting(NamedTuple):
    """What starts the backend for a model. Nothing is imported before."""

    config: EngineConfig

    def __call__(self, lm: LanguageModel) -> Backend:
        if self.config.backend == "http":
            from .http_backend import HttpBackend

            return HttpBackend(self.config, lm)
        from .vllm_backend import VllmBackend

        return VllmBackend(self.config, lm)
