"""Hard constraints as evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..errors import EvidenceError
from ..protocols import Columns, Scores
from ..types import Completions
from .call import call_user_function, function_name


class Constraint:
    """log e(c, y) = 0 where b(c, y) holds, -inf elsewhere.

    The target is the prior restricted to what satisfies b: log Z = log P_prior(b), and
    KL(p*, prior) = -log Z. `fn` is called like a reward function and returns a bool (or 0 / 1) a
    completion. KL(pi, p*) is infinite for any policy that ever breaks it.

    Raises `EvidenceError` for anything but true or false, or a function that fails.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.name = f"constraint '{function_name(fn)}'"

    def score(self, completions: Completions, columns: Columns) -> Scores:
        answers = call_user_function(self.fn, completions, columns, name=self.name)
        for row, answer in enumerate(answers):
            if answer not in (True, False):
                raise EvidenceError(
                    f"it returned {answer!r} for completion {row} "
                    f"({completions.texts[row][:60]!r})",
                    where=self.name,
                    hint="a constraint answers true or false; for degrees use Likelihood or Reward",
                )
        holds_N = torch.tensor([bool(answer) for answer in answers])
        log_evidence_N = torch.zeros(len(answers), dtype=torch.float64)
        return Scores(log_evidence_N.masked_fill(~holds_N, -math.inf), holds_N.double())
