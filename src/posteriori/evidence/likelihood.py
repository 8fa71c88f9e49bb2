"""Likelihoods as evidence: Bayes' rule in its plainest form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import Unpack

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns, Scores
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import in_short
from posteriori.errors import EvidenceError
from posteriori.evidence.calls.call import function_name, numbers
from posteriori.evidence.calls.caller import CallCounts, Caller
from posteriori.evidence.calls.settings import CallKeywords, call_settings
from posteriori.evidence.shown import ShownEvidence


class Likelihood(ShownEvidence):
    """The probability of an observation as evidence: Bayes' rule in its plainest form.

        log e(c, y) = log P(observed | c, y)

    The target is the prior given that observation: that a classifier finds the text harmless, that
    a judge says yes. The evidence is at most 1, so rejection from the prior is exact. Ready-made
    ones are in `posteriori.likelihoods`.

    Args:
        fn: called as TRL calls reward functions; returns the probability, in [0, 1], per
            completion. 0 rules a completion out; None says that the observation does not depend on
            it.
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`); a completion that is dropped has
            probability 0.

    Raises:
        EvidenceError: when scoring, for a value outside [0, 1], NaN, or a function that fails.
        ConfigError: for a wrong setting of calls.

    Example:
        >>> def harmless(completions, **_):
        ...     return [0.5 ** text.count("b") for text in completions]
        >>> po.Target(prior, po.Likelihood(harmless), ["x", "y"], 3).max_log_evidence
        0.0
    """

    max_log_evidence = 0.0

    @named_arguments
    def __init__(self, fn: Callable[..., Any], **calling: Unpack[CallKeywords]) -> None:
        self.fn = fn
        self.name = f"likelihood function '{function_name(fn)}'"
        settings = call_settings(calling, "Likelihood")
        self._ask = Caller(fn, self.name, settings, dropped=0.0)

    @property
    def functions(self) -> list[tuple[str, Callable[..., Any]]]:
        """The function, with its name in messages."""
        return [(self.name, self.fn)]

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
