"""Whether a model's name stands for something, asked before anything is loaded.

transformers finds out by itself, after half a minute of tries over the network, and then says that
a file is missing. Here one question with a time limit is enough.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from posteriori.data.home import expanded
from posteriori.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SECONDS = 5.0
_NEAR = 0.6
"""How alike a name and a bundled one are where it is that one with a slip in it."""

_known: set[str] = set()
"""Names that the hub has said to be there."""


def check_model_name(
    name: str, bundled: Iterable[str], where: str | None = None, kind: str = ""
) -> None:
    """Raise `ModelError` where `name` is no directory or file, no bundled model, in no cache, and
    nothing of the hub.

    The hub is asked at most once per name, for at most 5 seconds. `kind` is what cannot be loaded
    then, in words.
    """
    try:
        _check(name, bundled, where)
    except ModelError as error:
        if not kind:
            raise
        what = f"cannot load {kind} from '{name}': {error.what}"
        raise ModelError(what, where=error.where, hint=error.hint) from error


def _check(name: str, bundled: Iterable[str], where: str | None) -> None:
    names = sorted(bundled)
    if name in names or name in _known or expanded(name).exists():
        return
    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"there is no model at '{name}'", where=where, hint="check the path")
    hub: Any = import_module("huggingface_hub")
    if any(isinstance(hub.try_to_load_from_cache(name, each), str) for each in _FILES):
        return
    near = [] if "/" in name else difflib.get_close_matches(name, names, n=1, cutoff=_NEAR)
    if near:
        raise ModelError(
            f"there is no model '{name}'", where=where, hint=f"did you mean '{near[0]}'?"
        )
    if hub.constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        raise ModelError(
            f"there is no model '{name}' on this machine, and HF_HUB_OFFLINE is set",
            where=where,
            hint="check the path, or download it first",
        )
    _ask(hub, name, where)
    _known.add(name)


_FILES = ("config.json", "adapter_config.json")


def _ask(hub: Any, name: str, where: str | None) -> None:
    try:
        hub.HfApi().model_info(name, timeout=_SECONDS)
    except hub.errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model '{name}' on this machine or on the hub",
            where=where,
            hint="check the name; of a private one, log in by `hf auth login`",
        ) from error
    except Exception as error:  # the client's own network errors differ from version to version
        first = str(error).strip().splitlines()
        raise ModelError(
            f"there is no model '{name}' on this machine, and the hub cannot be asked for it: "
            f"{first[0] if first else type(error).__name__}",
            where=where,
            hint="check the path, or the network",
        ) from error
