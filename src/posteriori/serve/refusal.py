"""What a client is answered where its request cannot be done, in the shape that OpenAI's has."""

from __future__ import annotations

from typing import Any

from posteriori.errors import (
    ConfigError,
    DataError,
    EvidenceError,
    MemoryLimitError,
    ModelError,
    OutcomeError,
    PosterioriError,
    PromptError,
    SamplingError,
)

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "sampling_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: one sentence: what is wrong and what to write instead.
        param: the parameter that it is about, if it is about one.
        code: what a program knows it by.
        retry_after: seconds after which another try may go well.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code, self.retry_after = code, retry_after

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers

    def body(self) -> dict[str, Any]:
        kind = _KINDS.get(self.status, "invalid_request_error")
        content = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": content}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, param=param, code=code)


def refusal_of(error: PosterioriError) -> Refusal:
    """What the library refused, as an answer: 400 for what the request asked for, 422 where the
    sampler has nothing to give, 500 where evidence or model fail."""
    message = str(error)
    if isinstance(error, PromptError):
        return bad_request(message, "prompt", "prompt_refused")
    if isinstance(error, ConfigError | DataError | OutcomeError):
        return bad_request(message)
    if isinstance(error, MemoryLimitError):
        return Refusal(503, message, code="out_of_memory", retry_after=1)
    if isinstance(error, SamplingError):
        cause = error.__cause__
        if isinstance(cause, PosterioriError) and not isinstance(cause, SamplingError):
            return refusal_of(cause)
        return Refusal(422, message, code="sampling_failed")
    code = "evidence_failed" if isinstance(error, EvidenceError) else None
    code = "model_failed" if isinstance(error, ModelError) else code
    return Refusal(500, message, code=code)
