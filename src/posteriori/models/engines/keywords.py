"""The settings of an engine as keywords, for type checkers: a key for each field of
`EngineConfig`, which says what each one may be."""

from __future__ import annotations

from typing import Literal, TypedDict


class ServerKeywords(TypedDict, total=False):
    """Those of a server that is asked and no more; see `posteriori.EngineConfig`."""

    api_key_env: str | None
    tolerance: float | None
    compared: int
    timeout: float
    retries: int
    workers: int


class EngineKeywords(ServerKeywords, total=False):
    """See `posteriori.EngineConfig`."""

    url: str | None
    model: str | None
    adapter_dir: str | None
    dtype: Literal["float32", "bfloat16", "float16"]
    memory_gib: float
    gpu_share: float
    eager: bool
    gguf: str | None
    slots: int
