"""How a judge behind a server is asked."""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import Field

from posteriori.core.settings.strict import Strict


class EndpointSettings(Strict):
    """How a judge behind an OpenAI-compatible server is asked.

    Args:
        api: which of the server's routes: "chat" (chat/completions) or "completions".
        api_key_env: the environment variable that holds the key; None: no key is sent.
        top_logprobs: how many tokens the server returns.
        timeout: seconds per request.
        retries: how many more tries.
        backoff: seconds before the first one; each later one waits twice as long.
        workers: requests beside each other.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    api: Literal["chat", "completions"] = "chat"
    api_key_env: str | None = None
    top_logprobs: int = Field(default=20, ge=2)
    timeout: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)
    backoff: float = Field(default=1.0, ge=0)
    workers: int = Field(default=8, ge=1)


class EndpointKeywords(TypedDict, total=False):
    """The same as keywords of `posteriori.Judge.endpoint`, for type checkers."""

    api: Literal["chat", "completions"]
    api_key_env: str | None
    top_logprobs: int
    timeout: float
    retries: int
    backoff: float
    workers: int
