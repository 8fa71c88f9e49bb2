"""Evidence that a reader has no time: every token costs."""

from __future__ import annotations

import torch
from pydantic import Field

import posteriori as po
from posteriori.core.protocols import Columns, Scores


class BrevitySettings(po.Strict):
    """`nats_per_token`: by how much each token counts against a completion; `free`: how many cost
    nothing."""

    nats_per_token: float = Field(gt=0)
    free: int = Field(default=0, ge=0)


class Brevity(po.Configured):
    """log e(c, y) = -nats_per_token max(0, |y| - free): at most 0, so rejection knows its bound."""

    Settings = BrevitySettings
    max_log_evidence = 0.0

    def __init__(self, nats_per_token: float, free: int = 0) -> None:
        self.nats_per_token, self.free = nats_per_token, free
        self.name = f"brevity of {nats_per_token:g} nats per token"

    @classmethod
    def check(cls, settings: BrevitySettings, site) -> None:
        """Before anything is loaded: with all tokens free it says nothing."""
        if settings.free > 10_000:
            raise site.error(f"'free' = {settings.free} is above any length", "lower it")

    def score(self, completions: po.Completions, columns: Columns) -> Scores:
        length_N = completions.lengths_N.double()
        return Scores(-self.nats_per_token * (length_N - self.free).clamp(min=0), length_N)

    def prefix_log_evidence(self, completions: po.Completions, columns: Columns) -> torch.Tensor:
        """What a prefix has cost so far: no more can be had of what begins so."""
        return self.score(completions, columns).log_evidence
