"""Evidence keeps its contract, whatever it measures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel, PrefixEvidence, PriorEvidence, Scores
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.models.tabular import TabularLM

from .cases import PROMPTS, WORDS, outcomes_of
from .failures import CheckFailedError

DEPTH = 3


def check_evidence(
    evidence: Any,
    *,
    completions: Completions | None = None,
    columns: dict[str, Sequence[Any]] | None = None,
    lm: LanguageModel | None = None,
    tolerance: float = 1e-6,
) -> Scores:
    """Evidence keeps its contract: what its numbers may be, and what they depend on.

        log e(c, y): float64 [N], nats; -inf is legal, NaN and +inf are not

    A completion's evidence depends on nothing else in its batch, nor on how often it was asked for;
    and what the evidence is given stays as it was. Where it can rule out a prefix, every completion
    that begins so has to be ruled out: that is checked on all prefixes of the default completions.

    Args:
        evidence: the evidence.
        completions: what is scored; default: every outcome of up to three of the words "a" and "b"
            after two prompts.
        columns: the data set's columns that the evidence reads, one value per prompt.
        lm: the prior of the target that it is made part of; default: a random table, which has the
            default completions.
        tolerance: in nats, for rounding that depends on the batch.

    Returns:
        The scores of the completions.

    Raises:
        CheckFailedError: the contract is broken, and how.

    Example:
        >>> import posteriori as po
        >>> from posteriori import testing
        >>> def length(completion_ids, **_):
        ...     return [float(len(ids)) for ids in completion_ids]
        >>> len(testing.check_evidence(po.Reward(length, beta=0.5)).log_evidence)
        30
    """
    lm = lm or TabularLM.random(WORDS, DEPTH, PROMPTS, seed=3)
    own = completions is None
    given = every_outcome(lm) if completions is None else completions
    prompts = list(given.prompt_set)
    target = Target(lm, evidence, prompts, given.max_new_tokens, columns)
    asked = _Asked(evidence, target, columns or {}, lm)
    before = copy.deepcopy((given.prompts, given.completion_ids, columns))
    scores = asked.score(given)
    _check_scores(scores, len(given))
    _check_same(asked.score(given), scores, tolerance, "the second time it is asked")
    order = torch.randperm(len(given), generator=generator(0, "check"))
    for parts, how in (
        ([order], "in another order"),
        (list(order.split(max(1, len(order) // 3))), "in smaller batches"),
        ([row[None] for row in torch.arange(min(8, len(given)))], "alone"),
    ):
        for rows in parts:
            wanted = Scores(*(each[rows] for each in scores))
            _check_same(asked.score(given.select(rows)), wanted, tolerance, how)
    if (given.prompts, given.completion_ids, columns) != before:
        raise CheckFailedError("it changes the completions or columns that it is given")
    if own:
        _check_prefixes(asked, given, scores.log_evidence)
    return scores


def every_outcome(lm: LanguageModel) -> Completions:
    """All of the default completions, prompt by prompt."""
    parts = [outcomes_of(lm, prompt, DEPTH, len(WORDS)) for prompt in PROMPTS]
    prompts = [prompt for part in parts for prompt in part.prompts]
    return lm.completions(prompts, [ids for part in parts for ids in part.completion_ids], DEPTH)


class _Asked:
    """The evidence with what it has to be given."""

    def __init__(
        self, evidence: Any, target: Target, columns: dict[str, Sequence[Any]], lm: LanguageModel
    ) -> None:
        self.evidence, self.target, self.columns, self.lm = evidence, target, columns, lm
        self.reads_prior = isinstance(evidence, PriorEvidence)

    def _given(self, completions: Completions) -> list[Any]:
        index = [self.target.prompts.index(prompt) for prompt in completions.prompts]
        columns = {name: [values[at] for at in index] for name, values in self.columns.items()}
        if not self.reads_prior:
            return [completions, columns]
        with torch.no_grad():
            return [completions, columns, self.lm.log_prob(completions)]

    def score(self, completions: Completions) -> Scores:
        return self.evidence.score(*self._given(completions))

    def of_prefix(self, completions: Completions) -> Tensor | None:
        return self.evidence.prefix_log_evidence(*self._given(completions))


def _check_scores(scores: Any, num: int) -> None:
    if not isinstance(scores, Scores):
        raise CheckFailedError(
            f"score returns {type(scores).__name__}, not core.protocols.Scores",
            hint="return Scores(log_evidence, reward), float64 [N] each",
        )
    for name, values in scores._asdict().items():
        if not isinstance(values, Tensor) or values.dtype != torch.float64:
            kind = getattr(values, "dtype", type(values).__name__)
            raise CheckFailedError(f"{name} is {kind}, not float64")
        if values.shape != (num,):
            raise CheckFailedError(f"{name} is {list(values.shape)}, not [{num}]")
        if bool(values.isnan().any()):
            raise CheckFailedError(
                f"{name} is NaN for completion {int(values.isnan().nonzero()[0])}"
            )
    if bool((scores.log_evidence == torch.inf).any()):
        at = int((scores.log_evidence == torch.inf).nonzero()[0])
        raise CheckFailedError(f"log_evidence is +inf for completion {at}")


def _check_same(found: Any, wanted: Scores, tolerance: float, how: str) -> None:
    _check_scores(found, len(wanted.log_evidence))
    for name, mine, before in zip(Scores._fields, found, wanted, strict=True):
        gap = (mine - before).abs().masked_fill(mine == before, 0.0)
        if len(gap) and not float(gap.max()) <= tolerance:
            raise CheckFailedError(
                f"{name} is another {how}: by {float(gap.max()):.2g}",
                hint="a completion's evidence may depend on nothing but prompt, completion and "
                "columns",
            )


def _check_prefixes(asked: _Asked, outcomes: Completions, log_evidence_N: Tensor) -> None:
    evidence: Any = asked.evidence
    if not isinstance(evidence, PrefixEvidence | PriorEvidence):
        return
    rows = list(zip(outcomes.prompts, outcomes.completion_ids, strict=True))
    for length in range(1, DEPTH):
        begun = sorted({(str(p), tuple(ids[:length])) for p, ids in rows if len(ids) > length})
        prefixes = asked.lm.completions(
            [prompt for prompt, _ in begun], [list(ids) for _, ids in begun], DEPTH
        )
        said_N = asked.of_prefix(prefixes)
        if said_N is None:
            return
        for (prompt, ids), said in zip(begun, said_N.tolist(), strict=True):
            if said != -torch.inf:
                continue
            for at, (its_prompt, its_ids) in enumerate(rows):
                begins = str(its_prompt) == prompt and tuple(its_ids[:length]) == ids
                if begins and not bool(log_evidence_N[at].isneginf()):
                    raise CheckFailedError(
                        f"prefix {list(ids)} is ruled out, and the completion {its_ids} has "
                        f"evidence {float(log_evidence_N[at]):.3g}",
                        hint="-inf of a prefix says that no completion that begins so has any",
                    )
