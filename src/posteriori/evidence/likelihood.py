"""Likelihoods as evidence: Bayes' rule in its plainest form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posteriori.core.display.shown import ShownEvidence
from posteriori.core.protocols import Columns, Scores
from posteriori.core.types import Completions, Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import in_short
from posteriori.errors import EvidenceError
from posteriori.evidence.calls.call import function_name, numbers
from posteriori.evidence.calls.caller import CallCounts, Caller
from posteriori.evidence.calls.settings import call_settings


class Likelihood(ShownEvidence):
    """log e(c, y) = log P(observed | c, y).

    `fn` is called like a reward function and returns the probability, in [0, 1], of what has been
    observed (that a classifier finds the text harmless, that a judge says yes), so the target is
    the prior given that observation. Probability 0 rules a completion out; None says that the
    observation does not depend on it (probability 1). The evidence is at most 1, so rejection from
    the prior is exact.

    `calling`: a cache, workers, time-outs, what becomes of failures
    (`evidence.calls.settings.CallSettings`); a completion that is dropped has probability 0.
    Ready-made ones are in `posteriori.likelihoods`.

    Raises `EvidenceError` for a value outside [0, 1], NaN, or a function that fails.
    """

    max_log_evidence = 0.0

    @named_arguments
    def __init__(self, fn: Callable[..., Any], **calling: Any) -> None:
        self.fn = fn
        self.name = f"likelihood function '{function_name(fn)}'"
        settings = call_settings(calling, "Likelihood")
        self._ask = Caller(fn, self.name, settings, dropped=0.0)

    @property
    def callers(self) -> tuple[Caller, ...]:
        """What calls the user's functions, and counts it."""
        return (self._ask,)

    @property
    def counts(self) -> CallCounts:
        return self._ask.counts

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self._ask.findings

    def score(self, completions: Completions, columns: Columns) -> Scores:
        answers = self._ask(completions, columns)
        p_N = numbers(answers, completions, name=self.name, unit="probability")
        p_N = p_N.nan_to_num(nan=1.0, neginf=-1.0)
        wrong = (p_N < 0) | (p_N > 1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise EvidenceError(
                f"it returned {in_short(answers[row])} for completion {row} "
                f"({completions.texts[row][:60]!r})",
                where=self.name,
                hint="a likelihood is a probability in [0, 1]; for other scores use Reward",
            )
        return Scores(log_evidence=p_N.log(), reward=p_N)
