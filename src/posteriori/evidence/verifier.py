"""Verifiable rewards: a completion is correct or it is not."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns

from .constraint import Constraint


class Verifier(Constraint):
    """A verifier as evidence: the target is the prior's own correct answers.

        p*(y|c) = prior(y|c) 1[y correct] / Z(c),   Z(c) = pass@1 of the prior,
        KL(p*, prior) = -log Z(c)

    It is what RL with verifiable rewards tends to as beta goes to 0, so that no beta is to be
    chosen: a policy that is nearer to p* has sharpened the prior, and what p* has no mass on the
    prior cannot draw. `posteriori.pass_at_k` says how many draws hold a correct one.

    Args:
        fn: called as TRL calls reward functions; returns True or False (1 or 0) per completion, or
            None where it cannot be judged, which counts as not correct.
        prefix: as of `Constraint`.
        grammar: as of `Constraint`.
        quick: as of `Constraint`.
        calling: as of `Constraint`.

    Raises:
        EvidenceError: when scoring, for an answer that is none of these (a partial grade is for
            `Reward`), or a function that fails.
        ConfigError: for a wrong setting of calls.

    Example:
        >>> def correct(completions, answer, **_):
        ...     return [text.strip() == a for text, a in zip(completions, answer)]
        >>> po.Target("tiny", po.Verifier(correct), [{"prompt": "2+2=", "answer": "4"}], 4)
        Target(CausalLM x [verifier 'correct'], 1 prompts, max_new_tokens=4)
    """

    max_log_evidence = 0.0

    kind: ClassVar[str] = "verifier"
    answers: ClassVar[str] = (
        "a verifier says correct (True, 1) or not (False, 0); partial grades are for "
        "posteriori.Reward"
    )

    def _answers(self, ask: Any, completions: Completions, columns: Columns) -> Tensor:
        return super()._answers(_Judged(ask), completions, columns)


class _Judged:
    """What cannot be judged is not correct."""

    def __init__(self, ask: Any) -> None:
        self.ask = ask

    def __call__(self, completions: Completions, columns: Columns) -> list[Any]:
        return [False if each is None else each for each in self.ask(completions, columns)]
