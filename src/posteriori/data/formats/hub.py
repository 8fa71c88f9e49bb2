"""Data sets of the hub: whether a name stands for one, asked before anything is read.

`datasets` finds out by itself, after half a minute of tries over the network, each with a warning.
Here one question with a time limit is enough.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from posteriori.errors import DataError

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:/([\w.-]+))?")
_SECONDS = 5.0

_known: set[str] = set()
"""Names that the hub has said to be there."""


def name_and_split(path: str) -> tuple[str, str | None] | None:
    """Of "owner/name", or "owner/name/split"; None for what can be no name of the hub."""
    found = _HUB_ID.fullmatch(path)
    return None if found is None else (found[1], found[2])


def check_data_set(name: str, datasets: Any) -> None:
    """Raise `DataError` where the data set is in no cache, and the hub does not know it or cannot
    be asked. The hub is asked at most once per name, for at most 5 seconds."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    if name in _known or (cache / name.replace("/", "___")).is_dir():
        return
    hub: Any = import_module("huggingface_hub")
    if hub.constants.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE") == "1":
        raise DataError(
            "there is no such data set on this machine, and HF_HUB_OFFLINE is set",
            where=name,
            hint="check the path, or download it first",
        )
    try:
        hub.HfApi().dataset_info(name, timeout=_SECONDS)
    except hub.errors.RepositoryNotFoundError as error:
        raise DataError(
            "there is no such data set on this machine or on the hub",
            where=name,
            hint="check the name; of a private one, log in by `hf auth login`",
        ) from error
    except Exception as error:  # the client's own network errors differ from version to version
        first = str(error).strip().splitlines()
        raise DataError(
            "there is no such data set on this machine, and the hub cannot be asked for it: "
            f"{first[0] if first else type(error).__name__}",
            where=name,
            hint="check the name and the network, or give a file: .jsonl, .csv, .parquet",
        ) from error
    _known.add(name)
