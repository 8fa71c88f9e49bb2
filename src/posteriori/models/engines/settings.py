"""Which engine draws, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from posteriori.core.settings.strict import Strict
from posteriori.errors import ConfigError


class EngineConfig(Strict):
    """Settings of `posteriori.Engine`.

    Args:
        backend: "vllm" or "llama.cpp", in this process, or "http", an OpenAI-compatible server at
            `url`.
        gguf: llama.cpp's file with the prior's weights.
        slots: completions that llama.cpp decodes beside each other.
        url: of the server, such as "http://localhost:8000/v1".
        model: the name under which the server has the model; left out, the only one it has.
        adapter_dir: a folder that the server can read too, where LoRA adapters are left for it;
            left out, a temporary one.
        api_key_env: the environment variable that holds the server's key; None: no key is sent.
        dtype: type of vLLM's arithmetic.
        memory_gib: of vLLM's cache of keys and values, GiB.
        gpu_share: of a GPU's memory that vLLM may take, the weights included.
        eager: without CUDA graphs and compilation, which take minutes to start.
        tolerance: by how much log-probs may differ from the model's own by rounding, nats per token
            (root mean square); left out, 0.005 in float32 and 0.25 in 16 bits.
        compared: completions that are scored on both sides after every change of weights.
        timeout: seconds per request to the server.
        retries: how many more tries.
        workers: requests to the server beside each other.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.EngineConfig(dtype="bfloat16").backend
        'vllm'
    """

    backend: Literal["vllm", "llama.cpp", "http"] = "vllm"
    gguf: str | None = None
    slots: int = Field(default=16, ge=1)
    url: str | None = None
    model: str | None = None
    adapter_dir: str | None = None
    api_key_env: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    memory_gib: float = Field(default=2.0, gt=0)
    gpu_share: float = Field(default=0.5, gt=0, le=1)
    eager: bool = True
    tolerance: float | None = Field(default=None, gt=0)
    compared: int = Field(default=16, ge=2)
    timeout: float = Field(default=600.0, gt=0)
    retries: int = Field(default=2, ge=0)
    workers: int = Field(default=8, ge=1)


_OF = {
    "http": {"url", "model", "adapter_dir", "api_key_env", "timeout", "retries", "workers"},
    "vllm": {"dtype", "memory_gib", "gpu_share", "eager"},
    "llama.cpp": {"gguf", "slots", "timeout"},
}


def check_settings(config: EngineConfig, where: str) -> None:
    """Raise `ConfigError` for settings that do nothing beside each other."""
    for other in _OF.keys() - {config.backend}:
        given = sorted(n for n in config.model_fields_set & _OF[other] if getattr(config, n))
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
    if config.backend == "llama.cpp" and config.gguf is None:
        raise ConfigError(
            "the backend 'llama.cpp' needs the file with the prior's weights",
            where=where,
            hint='write gguf="model.gguf", the file that the prior was loaded from',
        )
