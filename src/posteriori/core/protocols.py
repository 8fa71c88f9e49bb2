"""The seams: what a language model and a piece of evidence must be able to do.

Prior, proposal and policy are roles that a `LanguageModel` plays, not classes of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .completions import Completions
from .occurrence import Prompt
from .types import Draws, Estimate

if TYPE_CHECKING:
    from posteriori.core.settings.training import LoraSettings

Columns = Mapping[str, Sequence[Any]]
"""Data-set columns, one value per completion."""


class NextTokens(NamedTuple):
    """What a language model says of the next token of every prefix (c, y_<t) of N completions.

    `hidden_NLD` is what it knows of the prefix, as in `LanguageModel.features`; `token_NLK` are K
    next tokens: the drawn one, the ends of sequence, and the most probable ones; `log_prob_NLK` are
    their log-probs, float64 nats, -inf where a token is in the row already. All of it is without
    gradient, and means nothing past a completion's end.
    """

    hidden_NLD: Tensor
    token_NLK: Tensor
    log_prob_NLK: Tensor


@runtime_checkable
class LanguageModel(Protocol):
    """A distribution pi(y|c) over outcomes, given a prompt.

    Prior, proposal and policy are roles of it.

    A protocol; the outcome space is that of `posteriori.core.completions`, so that the sum over y
    of pi(y|c) is 1. `posteriori.testing.check_language_model` says whether an object keeps it.

    Example:
        >>> isinstance(prior, po.LanguageModel)
        True
        >>> import torch
        >>> drawn = prior.sample(["x"], 5, 3, torch.Generator().manual_seed(0))
        >>> prior.log_prob(drawn).shape
        torch.Size([5])
    """

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    @property
    def vocab_size(self) -> int: ...

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Texts without special tokens."""
        ...

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Completions:
        """`num_samples` draws per prompt, prompt by prompt, with their log-probs."""
        ...

    def resample_suffix(
        self, completions: Completions, start_N: Tensor, generator: torch.Generator | None = None
    ) -> Completions:
        """Each completion's first `start_N` tokens (fewer than it has, or all of one that has not
        ended), and then fresh ones from pi(. | c, y_1 .. y_start) up to its `max_new_tokens`.

        The log-probs of fresh tokens come from sampling; those of the prefix are carried over as
        they were (so they are this model's if it drew the completions, or scored them), and are
        left out where there were none.
        """
        ...

    def token_power(self, alpha: float) -> LanguageModel:
        """pi(y_t|c, y_<t)^alpha, renormalised token by token: temperature 1/alpha."""
        ...

    def log_prob(self, completions: Completions) -> Tensor:
        """log pi(y|c), float64 [N], nats; differentiable where gradients are enabled."""
        ...

    def token_log_prob(self, completions: Completions) -> Tensor:
        """log pi(y_t|c, y_<t), float64 [N, L], zero beyond a completion's end; sums to it."""
        ...

    def features(self, completions: Completions) -> Tensor:
        """What the model knows of each prefix (c, y_<t), [N, L, D], for a critic to read.

        Without gradient, and zero beyond a completion's end.
        """
        ...

    def completions(
        self,
        prompts: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
    ) -> Completions:
        """Completions from outside, one prompt each (or one prompt for all)."""
        ...

    def micro_batches(
        self, completions: Completions, together: int = 1, keeps_logits: bool = False
    ) -> list[Tensor]:
        """Positions that cover the completions once, in groups that fit in memory together.

        So many neighbouring completions (rows 0 and 1, 2 and 3, .. for 2) stay in one group.
        `keeps_logits`: for a pass that keeps the logits of all its tokens, as `choice_log_prob`.
        """
        ...

    def in_float64(self) -> LanguageModel:
        """The same distribution with rounding pushed to float64, for enumeration."""
        ...


@runtime_checkable
class NextTokenLM(LanguageModel, Protocol):
    """A language model that says more of a prefix than the log-prob of the token that follows."""

    def next_tokens(self, completions: Completions, most: int) -> NextTokens:
        """Of every prefix: the drawn token, the ends of sequence and the `most` most probable."""
        ...

    def choice_log_prob(self, completions: Completions, token_NLK: Tensor) -> Tensor:
        """log pi(v|c, y_<t) of K tokens for each prefix, float64 [N, L, K]; differentiable."""
        ...

    @property
    def token_features_VD(self) -> Tensor:
        """What the model knows of each token, float32 [V, E], whatever its width E."""
        ...


@runtime_checkable
class TrainableLM(LanguageModel, Protocol):
    """A language model that can be turned into a policy, trained and saved."""

    @property
    def module(self) -> torch.nn.Module:
        """What holds the parameters that an optimiser moves."""
        ...

    @property
    def device(self) -> torch.device: ...

    def as_policy(
        self, kind: Literal["full", "lora"], lora: LoraSettings, seed: int
    ) -> TrainableLM:
        """A policy that starts as this very distribution, with parameters of its own."""
        ...

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that training changes, by name."""
        ...

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `trained_state` returned, bit for bit."""
        ...

    def save_pretrained(self, directory: Path) -> None:
        """Save in the format that the model's own ecosystem loads."""
        ...


@runtime_checkable
class CachesWeights(Protocol):
    """A language model that keeps, for the length of a run, what it computes from weights that are
    not trained."""

    def caching_frozen_weights(self) -> AbstractContextManager[None]: ...


class Rows(Protocol):
    """R prefixes under a language model, to be extended one token at a time. No gradients."""

    prompt_ids: tuple[tuple[int, ...], ...]
    """Of the prompts that the rows continue."""

    @property
    def logits_RV(self) -> Tensor:
        """The next token's unnormalised log-probs, as `sample` would draw from them."""
        ...

    @property
    def hidden_RD(self) -> Tensor:
        """float32, what the model knows of each prefix; only of rows made with `hidden=True`."""
        ...

    @property
    def token_features_VD(self) -> Tensor:
        """What the model knows of each token, whatever its width; with `hidden=True` only."""
        ...

    def keep(self, index_R: Tensor) -> None:
        """Row i becomes what row `index_R[i]` was; there may be more rows after, or fewer."""
        ...

    def extend(self, token_R: Tensor) -> None:
        """One more token per row."""
        ...

    def branch(self, index_R: Tensor) -> Rows:
        """New rows that go on from rows `index_R` on their own (without hidden states)."""
        ...


@runtime_checkable
class SteppingLM(LanguageModel, Protocol):
    """A language model that can be run token by token."""

    def stepping(
        self,
        prompts: Sequence[Prompt],
        parent_R: Tensor,
        max_new_tokens: int,
        hidden: bool = False,
    ) -> AbstractContextManager[Rows]:
        """Row r continues prompt `parent_R[r]`; each prompt is run once."""
        ...

    def rows_at_once(self, prompts: Sequence[Prompt], max_new_tokens: int) -> int:
        """How many rows fit in memory."""
        ...


class Scores(NamedTuple):
    """What one piece of evidence says of N completions; float64 [N] each.

    `log_evidence` (nats) may be -inf, never NaN or +inf. `reward` is in the units of the user's
    function: r for a reward, the probability for a likelihood, 0 or 1 for a constraint.
    """

    log_evidence: Tensor
    reward: Tensor


@runtime_checkable
class Evidence(Protocol):
    """log e(c, y): how strongly a completion speaks for what is wanted.

    A protocol: any object with `score` is evidence. `posteriori.core.hooks` lists what it may have
    beside, and `posteriori.testing.check_evidence` says whether it keeps the contract.

    Example:
        >>> from posteriori.core.protocols import Scores
        >>> class Short:
        ...     def score(self, completions, columns):
        ...         length_N = completions.lengths_N.double()
        ...         return Scores(log_evidence=-length_N, reward=-length_N)
        >>> isinstance(Short(), po.Evidence)
        True
    """

    def score(self, completions: Completions, columns: Columns) -> Scores:
        """Raises `EvidenceError` where the user's function fails or returns no evidence."""
        ...


@runtime_checkable
class PrefixEvidence(Evidence, Protocol):
    """Evidence that can rule out a completion before it has ended."""

    def prefix_log_evidence(self, completions: Completions, columns: Columns) -> Tensor | None:
        """float64 [N], a guess of the log-evidence to come; -inf only where none can come: no
        completion that begins so has any evidence. None where it cannot judge prefixes at all."""
        ...


class NextTokenHints(Protocol):
    """Says which next tokens are worth asking about, of the whole vocabulary at once."""

    def likely(self, prefixes: Sequence[Sequence[int]]) -> Tensor:
        """bool [D, V]; all false for a prefix of which nothing is known."""
        ...

    def too_late(self, prefixes: Sequence[Sequence[int]], left: int) -> Tensor | None:
        """bool [D, V]: tokens after which `left` more cannot complete the text. They are hardly
        ever drawn, so it should say so only where it knows. None where it never does."""
        ...


@runtime_checkable
class TokenConstraint(PrefixEvidence, Protocol):
    """Evidence that is 0 or 1, and can be asked about many next tokens of a prefix."""

    @property
    def judges_prefixes(self) -> bool:
        """Whether `prefix_log_evidence` can rule anything out."""
        ...

    @property
    def quick(self) -> bool:
        """Whether asking it about a hundred texts costs less than a token of a language model."""
        ...

    def hints(self, lm: Any) -> NextTokenHints | None:
        """For the tokens of `lm`, where there are any."""
        ...


@runtime_checkable
class PriorEvidence(Protocol):
    """Evidence that is a function of log prior(y|c): it is given that of every completion it
    scores, so that the prior is not run again."""

    needs_log_prior: bool

    def score(self, completions: Completions, columns: Columns, log_prior_N: Tensor) -> Scores:
        """As `Evidence.score`; `log_prior_N` is float64 [N], nats."""
        ...

    def prefix_log_evidence(
        self, completions: Completions, columns: Columns, log_prior_N: Tensor
    ) -> Tensor | None:
        """As `PrefixEvidence.prefix_log_evidence`; `log_prior_N` is that of the prefixes."""
        ...


@runtime_checkable
class TargetEvidence(Protocol):
    """Evidence that has to know the target that it is part of."""

    def bind(self, target: Any) -> None:
        """Called with each `posteriori.core.target.Target` that is made with it, before any
        scoring. Raises where it does not fit there."""
        ...


class ErrorsOfFit(NamedTuple):
    """What numbers that were fitted to draws leave open in log e of N completions.

    `change_NM`: by how many nats each log e changes with one standard error along each of M
    independent directions, float64 [N, M]. `shared`: those are the same numbers for all prompts;
    otherwise each prompt has numbers, and so errors, of its own. Of several kinds of evidence
    together, one for each direction.
    """

    change_NM: Tensor
    shared: bool | Sequence[bool]

    def shared_by_direction(self) -> list[bool]:
        """M of them."""
        if isinstance(self.shared, bool):
            return [self.shared] * self.change_NM.shape[1]
        return list(self.shared)


@runtime_checkable
class FittedEvidence(Protocol):
    """Evidence with numbers in it that were fitted to draws."""

    def errors_of_fit(self, completions: Completions, columns: Columns) -> ErrorsOfFit | None:
        """None where they are exact."""
        ...


class WantedMean(NamedTuple):
    """A mean that the evidence wants, what it takes, and what draws have: of a feature by name."""

    name: str
    wanted: float
    lambda_: Estimate
    attained: Estimate


@runtime_checkable
class MeansEvidence(Protocol):
    """Evidence that wants means of features."""

    def means_met(self, draws: Draws | Completions) -> Sequence[WantedMean]:
        """Weighted draws stand for the target, completions for what drew them."""
        ...
