"""Hard constraints as evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns, NextTokenHints, Scores
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import in_short
from posteriori.errors import EvidenceError
from posteriori.evidence.calls.call import function_name
from posteriori.evidence.calls.caller import CallCounts, Caller
from posteriori.evidence.calls.settings import CallKeywords, call_settings
from posteriori.evidence.grammar import Grammar
from posteriori.evidence.shown import ShownEvidence


class Constraint(ShownEvidence):
    """A hard constraint as evidence: the target is the prior restricted to what satisfies it.

        log e(c, y) = 0 where b(c, y) holds, -inf elsewhere
        log Z = log P_prior(b),   KL(p*, prior) = -log Z

    KL(pi, p*) is infinite for any policy that ever breaks it. Ready-made ones are in
    `posteriori.constraints`.

    Args:
        fn: b, called as TRL calls reward functions; returns a bool (or 0 / 1) per completion.
        prefix: called in the same way on completions that have not ended yet; says whether one that
            begins so can still satisfy b. It may say yes too often, and never no too often: what it
            rules out is not looked at again.
        grammar: says roughly what b says, so that SMC checks the right next tokens first.
        quick: whether `prefix` takes microseconds: SMC then asks it about next tokens before one is
            drawn (its `lookahead`).
        calling: a cache, workers, time-outs, what becomes of failures
            (`posteriori.evidence.calls.settings.CallSettings`), for both functions. A completion
            that is dropped does not satisfy b, and a prefix that is dropped still may.

    Raises:
        EvidenceError: when scoring, for anything but true or false, or a function that fails.
        ConfigError: for a wrong setting of calls.

    Example:
        >>> def has_a(completions, **_):
        ...     return ["a" in text for text in completions]
        >>> po.exact(po.Target(prior, po.Constraint(has_a), ["x"], 3)).log_z.round(3)
        array([-0.314])
    """

    max_log_evidence = 0.0
    kind: ClassVar[str] = "constraint"
    answers: ClassVar[str] = (
        "a constraint answers true or false; for degrees use Likelihood or Reward"
    )

    @named_arguments
    def __init__(
        self,
        fn: Callable[..., Any],
        prefix: Callable[..., Any] | None = None,
        *,
        grammar: Grammar | None = None,
        quick: bool = False,
        **calling: Unpack[CallKeywords],
    ) -> None:
        self.fn, self.prefix, self.grammar, self._quick = fn, prefix, grammar, quick
        self.name = f"{self.kind} '{function_name(fn)}'"
        settings = call_settings(calling, type(self).__name__)
        self._ask = Caller(fn, self.name, settings, dropped=False)
        self._ask_prefix = (
            None if prefix is None else Caller(prefix, self.name, settings, dropped=True)
        )

    @property
    def functions(self) -> list[tuple[str, Callable[..., Any]]]:
        """The functions, with their name in messages."""
        return [(self.name, fn) for fn in (self.fn, self.prefix) if fn is not None]

    @property
    def callers(self) -> tuple[Caller, ...]:
        """What calls the user's functions, and counts it."""
        return tuple(ask for ask in (self._ask, self._ask_prefix) if ask is not None)

    @property
    def judges_prefixes(self) -> bool:
        return self.prefix is not None

    @property
    def quick(self) -> bool:
        """Whether next tokens are checked unless it is said otherwise."""
        return self._quick

    def hints(self, lm: Any) -> NextTokenHints | None:
        """Which next tokens of `lm` the grammar lets through, where there is one."""
        return None if self.grammar is None else self.grammar.hints(lm)

    @property
    def counts(self) -> CallCounts:
        """Of whole completions; prefixes are not counted."""
        return self._ask.counts

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self._ask.findings

    def score(self, completions: Completions, columns: Columns) -> Scores:
        holds_N = self._answers(self._ask, completions, columns)
        return Scores(_log(holds_N), holds_N.double())

    def prefix_log_evidence(self, completions: Completions, columns: Columns) -> Tensor | None:
        """0 where one that begins so can satisfy b, -inf elsewhere; None without `prefix`."""
        if self._ask_prefix is None:
            return None
        return _log(self._answers(self._ask_prefix, completions, columns))

    def _answers(self, ask: Any, completions: Completions, columns: Columns) -> Tensor:
        answers = ask(completions, columns)
        for row, answer in enumerate(answers):
            if answer not in (True, False):
                raise EvidenceError(
                    f"it returned {in_short(answer)} for completion {row} "
                    f"({completions.texts[row][:60]!r})",
                    where=self.name,
                    hint=self.answers,
                )
        return torch.tensor([bool(answer) for answer in answers])


def _log(holds_N: Tensor) -> Tensor:
    return torch.zeros(len(holds_N), dtype=torch.float64).masked_fill(~holds_N, -math.inf)
