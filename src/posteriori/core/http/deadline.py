"""HTTP whose answer has to be whole by a moment, however slowly a server sends it, and that goes to
no other place than the one it was sent to."""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from functools import partial
from typing import Any


class Request(urllib.request.Request):
    """To be answered within `seconds` of now."""

    def __init__(
        self, url: str, data: bytes | None, headers: dict[str, str], seconds: float
    ) -> None:
        super().__init__(url, data, headers)
        self.seconds, self.end = seconds, time.monotonic() + seconds


def opener() -> urllib.request.OpenerDirector:
    """For requests of the kind above. A redirect is an answer like any other refusal."""
    return urllib.request.build_opener(_NoRedirect, _Http, _Https)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Where it leads is not even read: it may be no address at all."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> None:  # noqa: ARG002
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPConnection, req), req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, req), req)


def _connection(kind: Any, request: Request, *args: Any, **settings: Any) -> Any:
    made = kind(*args, **settings)
    made.response_class = partial(_Response, request)
    return made


class _Response(http.client.HTTPResponse):
    """Whose status, headers and body are read by the request's end. A time-out of the socket alone
    is that of each of its reads, and a server may send byte after byte."""

    def __init__(self, request: Request, sock: socket.socket, *args: Any, **settings: Any) -> None:
        super().__init__(sock, *args, **settings)
        self.fp.close()
        self.fp = io.BufferedReader(_UntilItsEnd(request, sock))


class _UntilItsEnd(io.RawIOBase):
    def __init__(self, request: Request, sock: socket.socket) -> None:
        super().__init__()
        self._request, self._sock = request, sock
        self._raw: Any = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._request.end - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
            return self._raw.readinto(buffer)
        except TimeoutError as error:
            seconds = f"{self._request.seconds:g}"
            raise TimeoutError(f"no whole answer in {seconds} seconds") from error

    def close(self) -> None:
        self._raw.close()
        super().close()
