"""`python -m` puts the current directory before what is installed. A folder of data that any user
else has filled, with a `rich.py` in it, would run its code; the `posteriori` command has no such
entry, and neither has `python -m posteriori`."""

import os
import sys


def leave_out_current_directory() -> None:
    """Take it from `sys.path` where this process was started as `python -m posteriori..`."""
    if not _is_ours(sys.orig_argv) or getattr(sys.flags, "safe_path", False) or not sys.path:
        return
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    if sys.path[0] in ("", here):
        del sys.path[0]


def _is_ours(arguments: list[str]) -> bool:
    if "-m" not in arguments:
        return False
    module = "".join(arguments[arguments.index("-m") + 1 :][:1])
    return module == "posteriori" or module.startswith("posteriori.")
