"""A server on a socket: it starts, answers, and ends on a signal, after what it has begun."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from posteriori.errors import ConfigError

from .app import Server

_BACKLOG = 2048


class _Graceful(uvicorn.Server):
    """Refuses new requests from the first signal on, also on connections that are open."""

    def __init__(
        self, config: uvicorn.Config, served: Server, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._served, self._on_ready = served, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._served.drain()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket at that address; port 0 is any that is free. Raises `ConfigError` where it cannot be
    had."""
    found: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        if found is not None:
            found.close()
        raise ConfigError(
            f"cannot listen at {host} port {port}: {getattr(error, 'strerror', None) or error}",
            where="posteriori serve",
            hint="give another --port (0 takes a free one) or --host",
        ) from error
    return found


def serve(served: Server, at: socket.socket, on_ready: Callable[[], None] = lambda: None) -> None:
    """Answer requests at a socket until SIGTERM or SIGINT; a second one ends it at once.

    What has begun is finished, within `drain_seconds`; new requests are refused.
    """
    config = uvicorn.Config(
        served.app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(served.config.drain_seconds)),
        lifespan="on",
    )
    server = _Graceful(config, served, on_ready)
    # uvicorn raises the signal again once it has ended as the signal wanted.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[at])
    served.close()
