"""Where in a user's own files something is: a function, the line that raised."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any

PROVIDED = (
    *("prompts", "completions", "completion_ids"),
    *("trainer_state", "log_extra", "log_metric"),
)
"""What every function is given beside the data-set columns."""

_LIBRARY = __name__.partition(".")[0]


def place_of_function(fn: Callable[..., Any]) -> str:
    """file:line where a user's function begins; empty for what is not Python or is the library's
    own."""
    plain: Any = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    plain = inspect.unwrap(plain)
    if not hasattr(plain, "__code__"):
        plain = type(plain).__dict__.get("__call__")
    code = getattr(plain, "__code__", None)
    module = getattr(plain, "__module__", "") or ""
    if code is None or module.partition(".")[0] == _LIBRARY:
        return ""
    return f"{code.co_filename}:{code.co_firstlineno}"


def place_of_error(error: BaseException, fn: Callable[..., Any]) -> str:
    """file:line of the last line of the function's own file that the error passed through; that of
    the function where it passed through none."""
    start = place_of_function(fn)
    file = start.rpartition(":")[0]
    inside = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{file}:{inside[-1].lineno}" if inside else start
