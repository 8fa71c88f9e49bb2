"""The values that flow between the parts: completions, draws, estimates and findings.

The outcome space. For a prompt c and T = `max_new_tokens`, an outcome y is a token sequence that
either ends with its first end-of-sequence token at length <= T (that token belongs to y and its
log-prob counts), or has length T and no such token (truncated). Under any autoregressive model
these outcomes are exclusive and exhaustive, so sum_y pi(y|c) = 1. Every log-prob, KL, entropy and
log Z of the library is over this space, in nats per completion.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from posteriori.errors import OutcomeError

from .display.finding import Finding
from .display.shown import ShownDraws, counted
from .occurrence import Prompt, place_of, prompt_key
from .rows_of_prompts import resampled_rows
from .tensors import cat_padded, distinct_places, ints, rows_of_ints

Kind = Literal["exact", "unbiased", "consistent", "lower_bound", "upper_bound", "heuristic"]
Guarantee = Literal["exact", "properly_weighted", "asymptotic", "heuristic"]
"""What draws are: independent draws of the target; E[w f(y)] = sum_y p~(y) f(y) for every f; the
target's in the limit of a long run; or nothing that can be promised."""


@dataclass(frozen=True, repr=False)
class Completions:
    """N completions of P prompts, as ragged rows in one padded tensor.

    `LanguageModel.sample` and `LanguageModel.completions` make them. `tokens_NL` is filled up with
    zeros that mean nothing: `lengths_N` alone says where a row ends, so a padding id can never be
    mistaken for a token.

    Args:
        prompt_set: the P prompts.
        prompt_ids: the token ids of each.
        prompt_index_N: which of them each completion follows, [N].
        tokens_NL: token ids, end of sequence included, [N, L].
        lengths_N: how many of them belong to the completion, [N].
        ended_N: whether the last one is an end of sequence, [N].
        max_new_tokens: the length T at which completions are cut.
        decode: turns ids into texts.
        token_log_prob_NL: log-probs under the distribution that drew the completions, float64 [N,
            L], nats, zero beyond a row's end; None where they were not drawn.
        own_NL: True on the tokens that a language model drew, where an environment has put in
            others (`posteriori.InEnvironment`), [N, L]; None: all of a completion's are.
        replies: what the environment said in each completion, turn by turn; None without one.

    Example:
        >>> batch = prior.completions(prompts=["x"], completion_ids=[[1, 2, 0]])
        >>> batch.lengths_N, batch.completion_ids
        (tensor([3]), [[1, 2, 0]])
    """

    prompt_set: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    prompt_index_N: Tensor
    tokens_NL: Tensor
    lengths_N: Tensor
    ended_N: Tensor
    max_new_tokens: int
    decode: Callable[[list[list[int]]], list[str]] = field(repr=False, compare=False)
    token_log_prob_NL: Tensor | None = None
    own_NL: Tensor | None = None
    replies: tuple[tuple[Any, ...], ...] | None = None

    def __len__(self) -> int:
        return self.tokens_NL.shape[0]

    def __repr__(self) -> str:
        asked = counted(len(self.prompt_set), "prompt")
        return f"Completions({len(self):,} of {asked}, at most {self.max_new_tokens} tokens)"

    @cached_property
    def log_prob_N(self) -> Tensor | None:
        """log q(y|c) under the distribution q that drew it, end of sequence included; [N]."""
        return None if self.token_log_prob_NL is None else self.token_log_prob_NL.sum(-1)

    @cached_property
    def completion_ids(self) -> list[list[int]]:
        """Each completion's token ids, end-of-sequence included and no padding."""
        rows = zip(rows_of_ints(self.tokens_NL), ints(self.lengths_N), strict=True)
        return [row[:length] for row, length in rows]

    @cached_property
    def texts(self) -> list[str]:
        """Each completion as text, without special tokens. Decoded once, when first asked for."""
        return self.decode(self.completion_ids)

    @cached_property
    def turns(self) -> list[list[str]]:
        """The texts of what a language model drew, turn by turn, without what an environment said;
        one turn where there is none."""
        if self.own_NL is None:
            return [[text] for text in self.texts]
        owned = zip(self.completion_ids, rows_of_ints(self.own_NL.long()), strict=True)
        runs = [_own_runs(ids, own) for ids, own in owned]
        texts = iter(self.decode([turn for row in runs for turn in row]))
        return [[next(texts) for _ in row] for row in runs]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Each completion's own prompt: as many as there are completions."""
        return [self.prompt_set[i] for i in ints(self.prompt_index_N)]

    @property
    def truncated_N(self) -> Tensor:
        """True where the completion ran into `max_new_tokens` before it ended."""
        return ~self.ended_N

    @property
    def mask_NL(self) -> Tensor:
        """True on the tokens that belong to a completion."""
        columns = torch.arange(self.tokens_NL.shape[1], device=self.tokens_NL.device)
        return columns < self.lengths_N[:, None]

    @property
    def own_mask_NL(self) -> Tensor:
        """True on the tokens that a language model drew: what its log-probs are of."""
        return self.mask_NL if self.own_NL is None else self.mask_NL & self.own_NL

    def distinct_prompts(self) -> tuple[list[tuple[int, ...]], Tensor]:
        """The ids of every prompt that has a completion, and which of them each one has [N]."""
        used_P, parent_N = distinct_places(self.prompt_index_N)
        return [self.prompt_ids[at] for at in ints(used_P)], parent_N

    def distinct_prefixes(self, start_N: Tensor) -> tuple[Tensor, Tensor]:
        """Every (prompt, y_1 .. y_start) once, and which of them each completion begins with [N].

        A row of the first tensor is the prompt's position, the number of tokens and the tokens.
        """
        columns = torch.arange(self.tokens_NL.shape[1], device=self.tokens_NL.device)
        kept_NL = self.tokens_NL.masked_fill(columns >= start_N[:, None], 0)
        key_NK = torch.cat([self.prompt_index_N[:, None], start_N[:, None], kept_NL], dim=1)
        return distinct_places(key_NK, dim=0)

    def select(self, index: Tensor | Sequence[int] | slice) -> Completions:
        """The completions at `index` (positions, a mask or a slice), in that order."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.tokens_NL.device)
        return replace(
            self,
            prompt_index_N=self.prompt_index_N[index],
            tokens_NL=self.tokens_NL[index],
            lengths_N=self.lengths_N[index],
            ended_N=self.ended_N[index],
            token_log_prob_NL=(
                None if self.token_log_prob_NL is None else self.token_log_prob_NL[index]
            ),
            own_NL=None if self.own_NL is None else self.own_NL[index],
            replies=None if self.replies is None else _at(self.replies, index),
        )

    @staticmethod
    def concat(parts: Sequence[Completions]) -> Completions:
        """All completions of `parts` in order. A prompt that several parts have is one prompt; one
        that a part has twice stays two."""
        place: dict[tuple[str, str, int], int] = {}
        prompts: list[Prompt] = []
        prompt_ids: list[tuple[int, ...]] = []
        index_parts: list[Tensor] = []
        for part in parts:
            seen: Counter[str] = Counter()
            moved: list[int] = []
            for prompt, ids in zip(part.prompt_set, part.prompt_ids, strict=True):
                row = place_of(prompt)
                nth = seen[prompt_key(prompt)] if row is None else row
                key = (prompt_key(prompt), "nth" if row is None else "row", nth)
                seen[key[0]] += 1
                if key not in place:
                    place[key] = len(prompts)
                    prompts.append(prompt)
                    prompt_ids.append(ids)
                moved.append(place[key])
            new_P = torch.tensor(moved, device=part.prompt_index_N.device)
            index_parts.append(new_P[part.prompt_index_N])
        log_probs = [part.token_log_prob_NL for part in parts]
        return replace(
            parts[0],
            prompt_set=tuple(prompts),
            prompt_ids=tuple(prompt_ids),
            prompt_index_N=torch.cat(index_parts),
            tokens_NL=cat_padded([part.tokens_NL for part in parts]),
            lengths_N=torch.cat([part.lengths_N for part in parts]),
            ended_N=torch.cat([part.ended_N for part in parts]),
            token_log_prob_NL=(
                None
                if any(each is None for each in log_probs)
                else cat_padded([each for each in log_probs if each is not None])
            ),
            **_environments_parts(parts),
        )

    def check_outcomes(self, max_new_tokens: int) -> None:
        """Raise `OutcomeError` unless every row is an outcome for that T."""
        too_long = self.lengths_N > max_new_tokens
        too_short = ~self.ended_N & (self.lengths_N < max_new_tokens)
        for bad, why in ((too_long, "is longer than"), (too_short, "does not end and is short of")):
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                raise OutcomeError(
                    f"completion {row} ({self.completion_ids[row]}) {why} "
                    f"max_new_tokens={max_new_tokens}, so it is not an outcome",
                    hint="draw with the target's max_new_tokens, or end it with the EOS token",
                )


def _own_runs(ids: list[int], own: list[int]) -> list[list[int]]:
    """The runs of neighbouring ids that are the model's own."""
    pairs = zip(ids, own, strict=False)  # rows are padded, ids are not
    runs = groupby(pairs, itemgetter(1))
    return [[token for token, _ in run] for is_own, run in runs if is_own]


ReplyT = TypeVar("ReplyT")


def _at(values: tuple[ReplyT, ...], index: Tensor | slice) -> tuple[ReplyT, ...]:
    rows = torch.arange(len(values))
    picked = rows[index] if isinstance(index, slice) else rows[index.cpu()]
    return tuple(values[row] for row in ints(picked))


def _environments_parts(parts: Sequence[Completions]) -> dict[str, Any]:
    """`own_NL` and `replies` of all parts together; a part that met no environment is all own."""
    if all(part.own_NL is None for part in parts):
        return {}
    return {
        "own_NL": cat_padded([part.own_mask_NL for part in parts]),
        "replies": tuple(
            replies
            for part in parts
            for replies in (((),) * len(part) if part.replies is None else part.replies)
        ),
    }


@dataclass(frozen=True)
class Cost:
    """What a result took: tokens run through language models (those of experts and local judges
    too), evidence calls, wall seconds."""

    lm_tokens: int = 0
    evidence_calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.lm_tokens + other.lm_tokens,
            self.evidence_calls + other.evidence_calls,
            self.seconds + other.seconds,
        )


def _cat(parts: list[Tensor]) -> Tensor:
    """One after another; rows of tokens are filled up to the longest."""
    return cat_padded(parts) if parts[0].dim() > 1 else torch.cat(parts)


_OPTIONAL = ("token_log_prior_NL", "log_weight_N", "group_N")
"""Tensors [N, ...] of `Draws` that may be missing."""


@dataclass(frozen=True, repr=False)
class Draws(ShownDraws):
    """Completions with everything that the target says about them.

        log_weight = log prior + log evidence - log proposal

    All tensors are float64 [N] in nats, unless they say otherwise.

    Args:
        completions: the N completions.
        log_proposal_N: log-prob under the distribution that drew them; NaN where that is unknown (a
            data set's), and then so are the log-weights.
        log_prior_N: log-prob under the prior.
        log_evidence_N: log e(c, y).
        reward_N: in the units of the user's own function.
        cost: what the draws took.
        token_log_prior_NL: the prior's log-prob token by token, [N, L].
        log_weight_N: where a sampler weighs otherwise: draws that were accepted or resampled weigh
            all the same.
        group_N: equal for draws that depend on each other (a population, a chain).
        log_z: the estimate of log Z, with one per prompt inside.
        guarantee: "exact", "properly_weighted", "asymptotic" or "heuristic".
        findings: what is to be known of the draws, in words.
        figures: metrics of the run by name, such as the acceptance rate.
        attached: tensors [N, ...] that an objective wants to have again with its draws.

    Example:
        >>> draws = po.sample(target, "importance", num_samples=100, seed=0)
        >>> len(draws), len(draws.resample(10, seed=0))
        (200, 20)
    """

    completions: Completions
    log_proposal_N: Tensor
    log_prior_N: Tensor
    log_evidence_N: Tensor
    reward_N: Tensor
    cost: Cost = Cost()
    token_log_prior_NL: Tensor | None = None
    log_weight_N: Tensor | None = None
    group_N: Tensor | None = None
    log_z: Estimate | None = None
    guarantee: Guarantee | None = None
    findings: tuple[Finding, ...] = ()
    figures: Mapping[str, Estimate] = field(default_factory=dict[str, "Estimate"])
    attached: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.completions)

    def select(self, index: Tensor | Sequence[int] | slice) -> Draws:
        """The draws at `index` (positions, a mask or a slice), in that order; the cost stays."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.log_prior_N.device)
        held = vars(self)
        some: dict[str, Tensor | None] = {name: held[name] for name in _OPTIONAL}
        return replace(
            self,
            completions=self.completions.select(index),
            log_proposal_N=self.log_proposal_N[index],
            log_prior_N=self.log_prior_N[index],
            log_evidence_N=self.log_evidence_N[index],
            reward_N=self.reward_N[index],
            attached={name: each[index] for name, each in self.attached.items()},
            **{name: None if each is None else each[index] for name, each in some.items()},
        )

    @staticmethod
    def concat(parts: Sequence[Draws]) -> Draws:
        """All draws of `parts`, in order; their costs add up. What only some of them have (and
        every estimate of log Z, which is not theirs together) is left out; so is a guarantee that
        is not that of all."""
        some: dict[str, Tensor] = {}
        for name in _OPTIONAL:
            values = [vars(part)[name] for part in parts]
            if not any(each is None for each in values):
                some[name] = _cat(values)
        guarantee = parts[0].guarantee
        shared = all(part.guarantee == guarantee for part in parts)
        common = [name for name in parts[0].attached if all(name in p.attached for p in parts)]
        attached = {name: _cat([part.attached[name] for part in parts]) for name in common}
        return Draws(
            Completions.concat([part.completions for part in parts]),
            torch.cat([part.log_proposal_N for part in parts]),
            torch.cat([part.log_prior_N for part in parts]),
            torch.cat([part.log_evidence_N for part in parts]),
            torch.cat([part.reward_N for part in parts]),
            sum((part.cost for part in parts), Cost()),
            guarantee=guarantee if shared else None,
            attached=attached,
            token_log_prior_NL=some.get("token_log_prior_NL"),
            log_weight_N=some.get("log_weight_N"),
            group_N=some.get("group_N"),
        )

    def resample(self, num_samples: int, seed: int = 0) -> Draws:
        """`num_samples` draws per prompt, with replacement, in proportion to exp(log_weight).

        Systematic resampling (Kitagawa 1996), so a draw of share s comes floor or ceil of
        s num_samples times. The result weighs all the same. For weighted draws its law tends to
        the target with the number of draws there were, not with `num_samples`. Raises
        `ConfigError` where no draw of a prompt has any weight.
        """
        picked = self.select(resampled_rows(self.completions, self.log_weight, num_samples, seed))
        return replace(picked, log_weight_N=torch.zeros_like(picked.log_prior_N))

    @property
    def log_weight(self) -> Tensor:
        """log w of each draw, unnormalised: log p~ - log proposal, unless a sampler has its own."""
        if self.log_weight_N is not None:
            return self.log_weight_N
        return self.log_prior_N + self.log_evidence_N - self.log_proposal_N

    @property
    def texts(self) -> list[str]:
        return self.completions.texts

    @property
    def prompts(self) -> list[Prompt]:
        return self.completions.prompts

    @property
    def completion_ids(self) -> list[list[int]]:
        return self.completions.completion_ids


@dataclass(frozen=True, repr=False)
class Estimate:
    """A number with its error bar, and what kind of claim it is.

    +- 1.96 standard errors are a 95% interval: errors that rest on fewer than thirty values are
    wider than s / sqrt(n), by Student's t.

    Args:
        value: the estimate; with several prompts the mean over them.
        standard_error: its Monte Carlo error for the prompts at hand: how far another seed would
            land.
        kind: "exact"; "unbiased"; "consistent" (the bias vanishes as 1 / num_draws); "lower_bound"
            or "upper_bound" (in expectation); "heuristic" (no guarantee).
        num_draws: the draws that it rests on.
        findings: what is to be known of it, in words.
        per_prompt: one estimate per prompt.
        standard_error_new_prompts: the error if the prompts are taken as a sample of all prompts,
            so that the spread between them counts as well; None with a single prompt.
        degrees_of_freedom: of the standard error; infinite where it rests on many values.

    Example:
        >>> print(po.Estimate(-1.25, 0.01, "unbiased", 1000))
        -1.25 ± 0.01
    """

    value: float
    standard_error: float
    kind: Kind
    num_draws: int
    findings: tuple[Finding, ...] = ()
    per_prompt: tuple[Estimate, ...] = ()
    standard_error_new_prompts: float | None = None
    degrees_of_freedom: float = math.inf

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"Estimate({self}, {self.kind}, {counted(self.num_draws, 'draw')})"

    def __str__(self) -> str:
        """The value and its error; of a figure whose error is unknown (NaN) the value alone."""
        if math.isnan(self.standard_error):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ± {self.standard_error:.2g}"
