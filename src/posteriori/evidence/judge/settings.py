"""How a judge behind a server is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from posteriori.core.settings.strict import Strict


class EndpointSettings(Strict):
    """`api`: which of the server's routes, "chat" (chat/completions) or "completions".

    `api_key_env` names the environment variable that holds the key (none is sent without it).
    `top_logprobs`: how many tokens the server returns. `timeout` seconds per request, `retries`
    more tries, `backoff` 2^k seconds apart, `workers` requests beside each other.
    """

    api: Literal["chat", "completions"] = "chat"
    api_key_env: str | None = None
    top_logprobs: int = Field(default=20, ge=2)
    timeout: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)
    backoff: float = Field(default=1.0, ge=0)
    workers: int = Field(default=8, ge=1)
