"""An unexpected error: one line on the terminal, and its traceback in a file."""

from __future__ import annotations

import os
import tempfile
import traceback

SHOWN = "POSTERIORI_TRACEBACK"
"""With this variable set the error is raised, for work on the library itself."""


def keep_traceback(error: Exception) -> str:
    """What to say of it. Raises `error` itself where `SHOWN` is set."""
    if os.environ.get(SHOWN):
        raise error
    what = f"an unexpected {type(error).__name__}: {str(error)[:300] or 'no message'}"
    try:
        handle, path = tempfile.mkstemp(prefix="posteriori-", suffix=".traceback.txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"{what}; set {SHOWN}=1 to see where, and report it"
    return f"{what}; report it, please, with '{path}'"
