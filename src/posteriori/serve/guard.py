"""What stands before every request: the key, the host, the size and pace of the body, the count.

It is plain ASGI, so that a client that leaves is seen by whatever stands behind.
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .keys import Keys
from .metrics import Metrics
from .refusal import Refusal
from .settings import ServeConfig

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = ("/", "/health")
"""Paths that need no key: they say nothing of the model or its draws."""


class Guard:
    """An ASGI application in front of another one.

    Args:
        app: what stands behind.
        config: the limits.
        keys: of the clients.
        hosts: the names by which the server may be addressed (a page elsewhere could otherwise
            have a browser talk to a server on its own machine); any if None.
        metrics: where requests are counted.
        paths: those that are counted by name.
    """

    def __init__(
        self,
        app: App,
        config: ServeConfig,
        keys: Keys,
        hosts: frozenset[str] | None,
        metrics: Metrics,
        paths: frozenset[str],
    ) -> None:
        self._app, self._config, self._keys = app, config, keys
        self._hosts, self._metrics, self._paths = hosts, metrics, paths
        self.is_draining = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                body = await self._let_in(scope, receive)
                if body is not None:
                    await self._app(scope, _again(body, receive), sending)
            except Refusal as refusal:
                await _refuse(refusal, sending)
            except Exception as error:
                if status:
                    raise
                # The client gets no word of what is inside; the log gets all of it.
                traceback.print_exception(error)
                words = "something failed inside the server; its log says what"
                await _refuse(Refusal(500, words, code="internal_error"), sending)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status or 499)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    async def _let_in(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes | None:
        """The body of a request that may go on; None for a client that has left."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._hosts is not None and _name(headers.get(b"host", b"")) not in self._hosts:
            raise Refusal(
                403,
                "the server is addressed by a name that is not its own; use the address that "
                "posteriori serve printed",
                code="wrong_host",
            )
        if scope["path"] not in OPEN and not self._keys.let_in(headers.get(b"authorization")):
            raise Refusal(
                401,
                "no known API key came with the request; send 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )
        if self.is_draining and scope["path"] != "/health":
            raise Refusal(503, "the server is ending; send the request to another", code="ending")
        self._check_size(headers.get(b"content-length"))
        if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            return b""
        try:
            async with asyncio.timeout(self._config.body_seconds):
                return await self._read(receive)
        except TimeoutError:
            raise Refusal(
                408,
                f"the body did not arrive within {self._config.body_seconds:g} seconds",
                code="slow_body",
            ) from None

    def _check_size(self, length: bytes | None) -> None:
        if length is None:
            return
        digits = length.isdigit() and len(length) < 20
        if not digits or int(length) > self._config.body_bytes:
            raise self._too_large()

    async def _read(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._config.body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            f"the body is above {self._config.body_bytes:,} bytes; send less in one request",
            code="body_too_large",
        )


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps(refusal.body()).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **refusal.headers,
    }
    if refusal.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _name(host: bytes) -> str:
    """The name of a Host header, without the port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
