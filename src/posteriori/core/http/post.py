"""JSON over HTTP: one request, with a time-out, and tried again where that can help."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
from typing import Any, NamedTuple

from posteriori.errors import ConfigError, PosterioriError

from .deadline import Request, opener

_WORTH_A_RETRY = (408, 409, 425, 429)
"""Of the client's errors; every one of the server's is."""


class Caller(NamedTuple):
    """Who asks a server: how messages name it, and the errors that are its own."""

    where: str
    whose: str
    refused: type[PosterioriError]
    """For an answer that another try would get again."""
    failed: type[PosterioriError]
    """For a server that does not answer."""
    largest: int
    """Bytes of an answer."""


class Post:
    """POSTs a JSON object to `url` (GETs it, for None) and returns the JSON that comes back.

    Lost connections, time-outs, 429 and 5xx are tried again, `backoff` 2^k seconds apart; `timeout`
    is that of a whole try. A redirect is not followed, because the key would go with it, and no
    error shows the key. Raises the caller's `failed` when the tries are used up, its `refused` for
    another status or an answer that is no JSON or too large, `ConfigError` for a url that is none
    or holds a password, or a key that is not in the environment or cannot be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        caller: Caller,
        api_key_env: str | None,
        timeout: float,
        retries: int,
        backoff: float,
    ) -> None:
        _check_url(url, caller)
        self.caller = caller
        self.url, self.timeout, self.retries, self.backoff = url, timeout, retries, backoff
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key_env is not None:
            key = os.environ.get(api_key_env)
            if not key:
                raise ConfigError(
                    f"the environment has no {api_key_env}",
                    where=self.caller.where,
                    hint=f"export {api_key_env}=..., or leave out api_key_env",
                )
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(
                    f"the key in {api_key_env} holds a line break or another character that "
                    "cannot be sent",
                    where=self.caller.where,
                    hint=f"export {api_key_env} again, without what is around it",
                )
            self.headers["Authorization"] = f"Bearer {key}"
        self._secret = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self._opener = opener()

    def __call__(self, body: dict[str, Any] | None) -> Any:
        text = self.text(body)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.caller.refused(
                f"{self.url} answered with what is no JSON: {self.shown(repr(text[:4096]), 100)}",
                where=self.caller.where,
                hint="is this the server's API? its url mostly ends in /v1",
            ) from error

    def text(self, body: dict[str, Any] | None) -> bytes:
        """The answer as it comes."""
        data, failure = None if body is None else json.dumps(body).encode(), ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                return self._once(data)
            except urllib.error.HTTPError as error:
                failure = self.shown(f"{error.code} {error.reason}: {_beginning(error)}", 400)
                if error.code < 500 and error.code not in _WORTH_A_RETRY:
                    raise self.caller.refused(
                        f"{self.url} refused the request: {failure}",
                        where=self.caller.where,
                        hint="check the url, the model's name, and api_key_env",
                    ) from None
            except (OSError, http.client.HTTPException) as error:
                failure = self.shown(
                    f"{type(error).__name__}: {getattr(error, 'reason', error)}", 400
                )
        raise self.caller.failed(
            f"{self.url} did not answer in {self.retries + 1} tries; the last ended with {failure}",
            where=self.caller.where,
            hint="is the server running? raise timeout, retries, or lower workers",
        )

    def _once(self, data: bytes | None) -> bytes:
        request = Request(self.url, data, self.headers, self.timeout)
        with self._opener.open(request, timeout=self.timeout) as answer:
            return self._read(answer)

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        """The whole body."""
        parts: list[bytes] = []
        size = 0
        while part := answer.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > self.caller.largest:
                raise self.caller.refused(
                    f"{self.url} answered with more than {self.caller.largest // 2**20} MiB",
                    where=self.caller.where,
                    hint="is this the server's API? its url mostly ends in /v1",
                )
        missing = answer.length
        if missing:
            raise http.client.IncompleteRead(b"".join(parts), missing)
        return b"".join(parts)

    def shown(self, text: str, most: int) -> str:
        """The beginning of a text for an error, without the key, which a server may repeat."""
        text = text.replace(self._secret, "***") if self._secret else text
        return text[:most].rstrip(": ")


def _beginning(error: urllib.error.HTTPError) -> str:
    """Of what the server says; a server may also lie about how much that is."""
    try:
        with error:
            return error.read1(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _check_url(url: str, caller: Caller) -> None:
    """Raise `ConfigError`, without repeating a url that may hold a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and (parts.port is None or parts.port > 0) and url.isprintable()
        good = good and not any(each.isspace() for each in url)
    except ValueError:
        raise _no_url(f"the url of {caller.whose}", caller) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the url of {caller.whose} holds a user name or password, which would be written down",
            where=caller.where,
            hint='put the key into the environment and give its name: api_key_env="SERVER_KEY"',
        )
    if not good:
        raise _no_url(repr(url), caller)


def _no_url(shown: str, caller: Caller) -> ConfigError:
    return ConfigError(
        f"{shown} is no address of a server",
        where=caller.where,
        hint='write one such as "http://localhost:8000/v1"',
    )
