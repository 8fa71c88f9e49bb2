"""JSON over HTTP: one request, with a time-out, and tried again where that can help."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from ..errors import ConfigError, EvidenceCallError, EvidenceError

_WORTH_A_RETRY = (408, 409, 425, 429)
"""Of the client's errors; every one of the server's is."""


class Post:
    """POSTs a JSON object to `url` and returns the JSON that comes back.

    Lost connections, time-outs, 429 and 5xx are tried again, `backoff` 2^k seconds apart. Raises
    `EvidenceCallError` when the tries are used up, `EvidenceError` for another status or an answer
    that is no JSON, `ConfigError` for a url that is none, or a key that is not in the environment.
    """

    def __init__(
        self, url: str, *, api_key_env: str | None, timeout: float, retries: int, backoff: float
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"'{url}' is no address of a server",
                where="Judge.endpoint",
                hint='write one such as "http://localhost:8000/v1"',
            )
        self.url, self.timeout, self.retries, self.backoff = url, timeout, retries, backoff
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key_env is not None:
            key = os.environ.get(api_key_env)
            if not key:
                raise ConfigError(
                    f"the environment has no {api_key_env}",
                    where="Judge.endpoint",
                    hint=f"export {api_key_env}=..., or leave out api_key_env",
                )
            self.headers["Authorization"] = f"Bearer {key}"

    def __call__(self, body: dict[str, Any]) -> Any:
        data, failure = json.dumps(body).encode(), ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                return self._once(data)
            except urllib.error.HTTPError as error:
                said = error.read(400).decode("utf-8", "replace")
                error.close()
                failure = f"{error.code} {error.reason}: {said}".rstrip(": ")
                if error.code < 500 and error.code not in _WORTH_A_RETRY:
                    raise EvidenceError(
                        f"{self.url} refused the request: {failure}",
                        where="Judge.endpoint",
                        hint="check the url, the model's name, and api_key_env",
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {getattr(error, 'reason', error)}"
        raise EvidenceCallError(
            f"{self.url} did not answer in {self.retries + 1} tries; the last ended with {failure}",
            where="Judge.endpoint",
            hint="is the server running? raise timeout, retries, or lower workers",
        )

    def _once(self, data: bytes) -> Any:
        request = urllib.request.Request(self.url, data, self.headers)  # noqa: S310 - http(s) only
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
            text = answer.read()
        try:
            return json.loads(text)
        except ValueError as error:
            raise EvidenceError(
                f"{self.url} answered with what is no JSON: {text[:100]!r}",
                where="Judge.endpoint",
                hint="is this the server's API? its url mostly ends in /v1",
            ) from error
