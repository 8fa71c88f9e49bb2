"""The Content-Security-Policy of our pages: only their own style sheet and script may act."""

from __future__ import annotations

import base64
import hashlib


def content_policy(style: str, script: str, connect: str | None = None) -> str:
    """The policy for a page with this style sheet and this script inside, which are named by hash.

    `connect` is where the script may send requests; left out, nowhere.
    """
    asks = "" if connect is None else f"connect-src {connect}; "
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; {asks}"
        "img-src data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'"
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
