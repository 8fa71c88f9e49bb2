"""How everything is loaded through transformers: one at a time, in silence, and without running the
checkpoint's own code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils import logging

from posteriori.core.run.process_wide import one_at_a_time
from posteriori.errors import ConfigError

UNREADABLE = (Exception,)
"""What transformers, PEFT, torch, safetensors and tokenizers raise for files that are damaged or do
not belong together: errors of all kinds, and tokenizers' are `Exception` itself."""


@contextmanager
def loading() -> Iterator[dict[str, Any]]:
    """Within it call `from_pretrained(path, **options)`, with the options that this gives.

    `trust_remote_code` is off: a checkpoint that wants to run its own code is refused by
    transformers with a ValueError. Left open, transformers would ask on the terminal.
    """
    # Some architectures draw weights before they read them: no random state but their own changes.
    with one_at_a_time(), torch.random.fork_rng(devices=[]):
        verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield {"trust_remote_code": False}
        finally:
            logging.set_verbosity(verbosity)
            if bar:
                logging.enable_progress_bar()


def trusting(trust_remote_code: bool, revision: str | None) -> dict[str, Any]:
    """The options of `from_pretrained` for a checkpoint whose own code may run, or may not.

    Raises `ConfigError` for trust in whatever code a name may stand for tomorrow.
    """
    if trust_remote_code and not revision:
        raise ConfigError(
            "trust_remote_code runs the checkpoint's own code, and no revision says which",
            hint='give the commit whose code you have read, such as revision = "4f2a9c1"',
        )
    pinned = {} if revision is None else {"revision": revision, "code_revision": revision}
    return {"trust_remote_code": trust_remote_code, **pinned}


def first_line(error: Exception) -> str:
    """What an error says, without the pages that transformers may add."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
