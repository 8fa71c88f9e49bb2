"""Which objective a run has where the user names none."""

from __future__ import annotations

import time
from pathlib import Path

from posteriori.core.completions import Completions
from posteriori.core.draw import draw
from posteriori.core.protocols import NextTokenLM
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.data.formats.json_object import read_object
from posteriori.distributed.exchange import by_first
from posteriori.errors import CheckpointError

AUTO = "auto"

QUICK_SECONDS = 5e-3
"""Evidence that takes longer for a text is not asked about next tokens by default."""

_TEXTS = 32
_TRIES = 4


def default_objective(target: Target, seed: int) -> tuple[str, str]:
    """The objective's name, and why, in words.

    `soft_q` learns most from a draw, and asks the evidence about hundreds of texts for each: it is
    the default where the evidence takes less than 5 ms for a text. Elsewhere it is `rloo`, and
    `dpg` where the evidence rules out some of a few of the prior's draws. Those are drawn to see,
    32 of them at least.
    """
    prompts = target.prompts[:_TEXTS]
    each = -(-_TEXTS * _TRIES // len(prompts))
    fresh = draw(target, target.prior, each, generator(seed, "default objective"), prompts)
    seconds = _seconds_per_text(target, fresh.completions)
    if seconds < QUICK_SECONDS and isinstance(target.prior, NextTokenLM):
        return "soft_q", f"the evidence takes {seconds * 1e3:.2g} ms per text"
    name = "dpg" if bool(fresh.log_evidence_N.isneginf().any()) else "rloo"
    why = f"the evidence takes {seconds * 1e3:.2g} ms per text, too long to ask about next tokens"
    if not isinstance(target.prior, NextTokenLM):
        why = f"a {type(target.prior).__name__} does not say what tokens may come next"
    return name, why


def recorded_objective(folder: Path | str) -> str | None:
    """What a run in that folder has chosen, if there is one."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        return None
    try:
        return str(read_object(file)["objective"])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"not the config of a run: {error}", where=str(file), hint="choose another output_dir"
        ) from error


def _seconds_per_text(target: Target, completions: Completions) -> float:
    """The least of a few measurements, each of texts that were not asked about before: another
    program on the machine makes one longer, and never shorter."""
    found = []
    for first in range(0, _TEXTS * _TRIES, _TEXTS):
        some = completions.select(slice(first, first + _TEXTS))
        start = time.perf_counter()
        target.score(some)
        seconds = (time.perf_counter() - start) / len(some)
        found.append(by_first(lambda seconds=seconds: seconds))
        if found[-1] < QUICK_SECONDS:
            break
    return min(found)
