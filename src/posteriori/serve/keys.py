"""API keys: where they come from, and how one is compared. They are never printed or logged."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from pathlib import Path

from posteriori.errors import ConfigError

VARIABLE = "POSTERIORI_SERVE_KEYS"
_SHORTEST = 8


class Keys:
    """The keys that requests may carry, as digests. Without any, all requests are let in."""

    def __init__(self, keys: list[str], where: str = "keys") -> None:
        for at, key in enumerate(keys):
            if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    f"key {at + 1} is no key: it has to have {_SHORTEST} or more printable ASCII "
                    "characters and no space",
                    where=where,
                    hint='make one by python -c "import secrets; print(secrets.token_urlsafe(32))"',
                )
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({len(self._digests)})"

    def let_in(self, authorization: bytes | None) -> bool:
        """Whether a header "Authorization: Bearer KEY" has one of the keys. All are compared, each
        in constant time."""
        if not self._digests:
            return True
        scheme, _, key = (authorization or b"").partition(b" ")
        given = _digest(key.strip())
        found = [hmac.compare_digest(given, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(found)


def read_keys(file: Path | None) -> Keys:
    """The keys of a file, one per line (# begins a comment), or of the variable
    POSTERIORI_SERVE_KEYS, between spaces. Raises `ConfigError` for a file without any."""
    if file is None:
        return Keys(os.environ.get(VARIABLE, "").split(), VARIABLE)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(
            f"the keys cannot be read: {what}", where=str(file), hint="write one key per line"
        ) from error
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not keys:
        raise ConfigError("there is no key in it", where=str(file), hint="write one key per line")
    return Keys(keys, str(file))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
