"""What evidence and language models may say of themselves, beside what they have to be able to do.

Each hook is a protocol of its own. The library asks `isinstance(evidence, BoundedEvidence)`, so a
class takes part by having the attribute, and needs no base class. What has none of them is used by
its `Evidence` or `LanguageModel` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from .completions import Completions
from .journal.pieces import Counter
from .protocols import Evidence, LanguageModel, PriorEvidence
from .types import Finding

AnyEvidence = Evidence | PriorEvidence
HookT = TypeVar("HookT")


@runtime_checkable
class Named(Protocol):
    """Has a name for messages, such as "reward function 'polite'"."""

    name: str


@runtime_checkable
class TokenTeacher(Protocol):
    """Is weight x (log pi_teacher - log prior), and says what the teacher thinks of every next
    token, float64 [N, L, V]."""

    weight: float

    @property
    def lm(self) -> LanguageModel: ...

    @property
    def drawing(self) -> LanguageModel:
        """The teacher as a model to draw by."""
        ...

    def next_token_log_prob(self, completions: Completions) -> Tensor: ...


@runtime_checkable
class RewardEvidence(Protocol):
    """Says whether its reward is one, in units of the user's own.

    The rewards of all such evidence are added up and reported as the target's reward. Evidence
    without the hook reports a probability or a yes-or-no answer.
    """

    is_reward: bool


@runtime_checkable
class BetaEvidence(Protocol):
    """Has a beta, log e = r / beta; None where it is to be found from a budget."""

    beta: float | None


@runtime_checkable
class ScalableEvidence(BetaEvidence, Protocol):
    """Can be had with another beta: for `Target.with_beta` and for `fit` with a budget."""

    def with_beta(self, beta: float) -> Evidence:
        """The same evidence at that beta; the original stays as it is."""
        ...


@runtime_checkable
class BoundedEvidence(Protocol):
    """Knows the largest log e that there can be, in nats; None where there is no bound.

    With a bound rejection sampling from the prior is exact. The bound may be too large, and never
    too small.
    """

    @property
    def max_log_evidence(self) -> float | None: ...


@runtime_checkable
class BoundedReward(Protocol):
    """Knows the largest reward that there can be, in its own units; None where it does not."""

    max_reward: float | None


@runtime_checkable
class ReportsFindings(Protocol):
    """Has findings about itself, such as calls that failed."""

    @property
    def findings(self) -> tuple[Finding, ...]: ...


@runtime_checkable
class WithFloat64(Protocol):
    """Evidence that runs a model, and can run it with rounding pushed to float64."""

    def in_float64(self) -> AnyEvidence: ...


@runtime_checkable
class AsksFunctions(Protocol):
    """Evidence that calls the user's functions by the data set's columns: a function that needs a
    column that is not there is refused when the target is made."""

    @property
    def functions(self) -> Sequence[tuple[str, Callable[..., Any]]]:
        """Each function, with what to call it in messages."""
        ...


@runtime_checkable
class CountsCalls(Protocol):
    """Evidence that counts its calls; a resumed run goes on from the counts that it had."""

    @property
    def callers(self) -> Sequence[Counter]: ...


@runtime_checkable
class FittedEvidence(Protocol):
    """Evidence that is fitted to its target, at the latest when `fitted` is first read."""

    @property
    def fitted(self) -> Any: ...


@runtime_checkable
class HasTokenizer(Protocol):
    """A language model with a tokenizer of transformers."""

    tokenizer: Any


@runtime_checkable
class HasEnvironment(Protocol):
    """A language model `lm` whose turns an environment answers: its outcomes are episodes."""

    lm: Any
    environment: Any


@runtime_checkable
class HasVocabulary(Protocol):
    """A language model whose tokens are written out."""

    vocabulary: Sequence[str]


@runtime_checkable
class HasContext(Protocol):
    """A language model that may have a longest input, in tokens, prompt included."""

    @property
    def context_length(self) -> int | None: ...


@runtime_checkable
class OnDevice(Protocol):
    """A language model whose tensors are on one device."""

    @property
    def device(self) -> torch.device: ...


@runtime_checkable
class HasModule(Protocol):
    """Something whose parameters are those of one module."""

    @property
    def module(self) -> torch.nn.Module: ...


@runtime_checkable
class DrawsElsewhere(LanguageModel, Protocol):
    """A language model whose draws come from another program, `posteriori.Engine`.

    Draws of `sample` carry the log-probs of what really drew them, q; `log_prob` is that of the
    model `lm` itself, pi. `served` is q as a language model: it draws and scores by the engine.
    """

    lm: LanguageModel

    @property
    def served(self) -> LanguageModel: ...

    def standing_for(self, lm: LanguageModel) -> DrawsElsewhere:
        """The same engine with the weights of `lm`, as they are at each draw."""
        ...

    def scored(self, drawn: Completions, known_NL: Tensor | None = None) -> Tensor:
        """log pi of each token of its own fresh draws, float64 [N, L], without gradient (`known_NL`
        where it is known); the next update is verified by them."""
        ...


@runtime_checkable
class Served(Protocol):
    """What another program draws and scores; `served_findings` says what is wrong with it."""

    def served_findings(self) -> tuple[Finding, ...]: ...


def those(evidence: Sequence[AnyEvidence], hook: type[HookT]) -> list[HookT]:
    """The pieces of evidence that have a hook."""
    return [each for each in evidence if isinstance(each, hook)]


def rewards_among(evidence: Sequence[AnyEvidence]) -> list[AnyEvidence]:
    """The pieces of evidence that say that they are rewards."""
    return [each for each in evidence if is_reward(each)]


def is_reward(evidence: AnyEvidence) -> bool:
    return isinstance(evidence, RewardEvidence) and evidence.is_reward


def name_of(evidence: object) -> str:
    """What to call it in messages: its own name, or that of its class."""
    return evidence.name if isinstance(evidence, Named) else type(evidence).__name__


def tokenizer_of(lm: object) -> Any:
    """Its tokenizer; None where it has none."""
    return lm.tokenizer if isinstance(lm, HasTokenizer) else None


def context_of(lm: object) -> int | None:
    """Its longest input, in tokens; None where no limit is known."""
    return lm.context_length if isinstance(lm, HasContext) else None
