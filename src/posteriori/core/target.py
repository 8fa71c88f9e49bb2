"""The target: which distribution is wanted, as prior times evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import deprecated

from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count, finite, in_short
from posteriori.data.prompts import PromptData, sample_rows
from posteriori.data.prompts import prompts as read_prompts
from posteriori.errors import ConfigError, EvidenceError

from .completions import Completions, check_completions
from .cost import spend
from .elsewhere import engine_of
from .hooks import (
    BoundedEvidence,
    ReportsFindings,
    ScalableEvidence,
    WithFloat64,
    is_reward,
    name_of,
    those,
)
from .occurrence import Prompt, marked, place_of, prompt_key
from .protocols import (
    ErrorsOfFit,
    Evidence,
    FittedEvidence,
    LanguageModel,
    MeansEvidence,
    PrefixEvidence,
    PriorEvidence,
    Scores,
    TargetEvidence,
    WantedMean,
)
from .registry import language_model
from .same_outcomes import check_outcomes_of
from .tensors import ints
from .types import Draws, Finding
from .user_functions.given_evidence import check_arguments, checked_evidence, placed

PromptSource: TypeAlias = "Sequence[Prompt] | PromptData | Any"
"""Prompts, or what `posteriori.prompts` reads them from."""


class LogDensity(NamedTuple):
    """log p~(y|c) of N completions and its parts; float64 [N], nats (reward in its own units)."""

    prior: Tensor
    evidence: Tensor
    total: Tensor
    reward: Tensor


class Target:
    """The posterior that alignment approximates: which distribution is wanted.

        p*(y|c) = prior(y|c) e(c, y) / Z(c)

    With `Reward(r, beta)` as evidence this is the optimum of KL-regularised RL, argmax_pi E_pi[r] -
    beta KL(pi, prior) (Korbak et al. 2022, arXiv 2205.11275, section 3). Every estimate about a
    target is over its prompts, in their order, and its `max_new_tokens`.

    Args:
        prior: a language model, or what `posteriori.load` takes.
        evidence: one piece of evidence, or several that are multiplied together; [] for none.
        prompts: strings, conversations, or what `posteriori.prompts` reads (a Dataset, a DataFrame,
            rows, a file). A prompt may be there several times, with other columns.
        max_new_tokens: the length T at which completions are cut, in tokens.
        columns: more data-set columns, one value per prompt; functions receive them by name.
        temper: the power t of the evidence; see `tempered`.

    Raises:
        ConfigError: for no prompts, columns of another length, or what is no evidence.
        DataError: for rows without a prompt.
        EvidenceError: for a function that needs a column which is not there.

    Example:
        >>> target = po.Target(prior, po.Reward(reward, beta=0.5), ["x", "y"], max_new_tokens=3)
        >>> target
        Target(TabularLM x [reward function 'reward'], 2 prompts, max_new_tokens=3)
    """

    @named_arguments
    def __init__(
        self,
        prior: LanguageModel,
        evidence: Sequence[Evidence | PriorEvidence] | Evidence | PriorEvidence,
        prompts: PromptSource,
        max_new_tokens: int,
        columns: Mapping[str, Sequence[Any]] | None = None,
        temper: float = 1.0,
    ) -> None:
        data = read_prompts(prompts)
        if not data.prompts:
            raise ConfigError("prompts is empty", hint='an empty prompt is written prompts=[""]')
        max_new_tokens = count(max_new_tokens, "max_new_tokens")
        power = finite(temper)
        if power is None or power < 0:
            raise ConfigError(f"temper={in_short(temper)} must be a number of at least 0")
        self.prior: LanguageModel = language_model(prior, "prior")
        if engine_of(self.prior) is not None:
            raise ConfigError(
                "the prior is an engine, whose draws are not exactly the model's own",
                where="Target",
                hint="give the model itself, and the engine where something is drawn: "
                "fit(sampler=...), sample(proposal=...)",
            )
        self.evidence = checked_evidence(evidence)
        self.prompts = _found_apart(data.prompts)
        self.max_new_tokens = max_new_tokens
        both = sorted(data.columns.keys() & (columns or {}).keys())
        if both:
            raise ConfigError(
                f"the prompts have a column '{both[0]}', and columns gives it too",
                hint="remove it from one of them",
            )
        given = {**data.columns, **(columns or {})}
        self.columns = {name: list(values) for name, values in given.items()}
        self.temper = power
        self.rows_of_whole: tuple[int, ...] = tuple(range(len(self.prompts)))
        self._position = {prompt_key(prompt): at for at, prompt in enumerate(self.prompts)}
        for name, values in self.columns.items():
            if len(values) != len(self.prompts):
                raise ConfigError(
                    f"column '{name}' has {len(values)} values for {len(self.prompts)} prompts"
                )
        check_arguments(self.evidence, self.columns)
        for each in self.evidence:
            if isinstance(each, TargetEvidence):
                each.bind(self)

    def __repr__(self) -> str:
        evidence = ", ".join(map(name_of, self.evidence))
        return (
            f"Target({type(self.prior).__name__} x [{evidence}], {len(self.prompts):,} prompts, "
            f"max_new_tokens={self.max_new_tokens})"
        )

    def tempered(self, t: float) -> Target:
        """prior x evidence^t: the path from the prior (t = 0) to this target (t = 1).

        0^0 = 1: at t = 0 even what the evidence rules out has its prior probability.
        """
        power = finite(t)
        if power is None or power < 0:
            raise ConfigError(f"t={in_short(t)} must be a number of at least 0", where="tempered")
        return Target(
            self.prior,
            self.evidence,
            self.prompts,
            self.max_new_tokens,
            self.columns,
            self.temper * power,
        )

    def with_beta(self, beta: float) -> Target:
        """The same target with another beta of its reward: prior x exp(r / beta) x the rest.

        Raises `ConfigError` unless exactly one piece of evidence has a beta.
        """
        scalable = those(self.evidence, ScalableEvidence)
        if len(scalable) != 1:
            raise ConfigError(
                f"{len(scalable)} pieces of the evidence have a beta, and it has to be one",
                where="with_beta",
                hint="use a single Reward (a list of functions with weights is one) or Preferences",
            )
        evidence = [
            each.with_beta(beta) if isinstance(each, ScalableEvidence) else each
            for each in self.evidence
        ]
        return Target(
            self.prior, evidence, self.prompts, self.max_new_tokens, self.columns, self.temper
        )

    def with_prompts(
        self, prompts: PromptSource, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Target:
        """The same prior and evidence, over other prompts, with their own data-set columns."""
        return Target(self.prior, self.evidence, prompts, self.max_new_tokens, columns, self.temper)

    @deprecated("Target.asking is Target.with_prompts; the old name goes in 0.3")
    def asking(
        self, prompts: PromptSource, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Target:
        """The name of `with_prompts` in 0.1."""
        return self.with_prompts(prompts, columns)

    def sampled(self, max_prompts: int, seed: int = 0) -> Target:
        """The same target over `max_prompts` of its prompts (all if it has no more), drawn without
        replacement from `seed`, in their order, with their columns."""
        rows = sample_rows(len(self.prompts), max_prompts, seed)
        some = self.with_prompts(PromptData(list(self.prompts), self.columns).select(rows))
        some.rows_of_whole = tuple(rows)
        return some

    def in_float64(self) -> Target:
        """The same target with the rounding of its models pushed to float64, for enumeration."""
        evidence = [
            each.in_float64() if isinstance(each, WithFloat64) else each for each in self.evidence
        ]
        return Target(
            self.prior.in_float64(),
            evidence,
            self.prompts,
            self.max_new_tokens,
            self.columns,
            self.temper,
        )

    def log_density(self, completions: Completions) -> LogDensity:
        """log p~(y|c) = log prior(y|c) + log e(c, y), unnormalised, without gradient.

        Raises `OutcomeError` for a completion that is no outcome at this `max_new_tokens`, and
        `EvidenceError` where the evidence fails.
        """
        check_completions(completions)
        completions.check_outcomes(self.max_new_tokens)
        check_outcomes_of(self.prior, completions, "Target.log_density")
        log_prior_N = self.log_prior(completions)
        scores = self.score(completions, log_prior_N)
        total_N = log_prior_N + scores.log_evidence
        return LogDensity(log_prior_N, scores.log_evidence, total_N, scores.reward)

    def log_prior(self, completions: Completions) -> Tensor:
        """log prior(y|c), float64 [N], without gradient."""
        return self.token_log_prior(completions).sum(-1)

    def token_log_prior(self, completions: Completions) -> Tensor:
        """log prior(y_t|c, y_<t), float64 [N, L], zero beyond a completion's end; no gradient."""
        with torch.no_grad():
            return self.prior.token_log_prob(completions).double()

    def score(self, completions: Completions, log_prior_N: Tensor | None = None) -> Scores:
        """log e(c, y) and the reward, each summed over the evidence; float64 [N] on the CPU's side
        of the user's functions and then on the completions' device.

        `log_prior_N` is log prior(y|c) where the caller knows it: evidence that is a function of it
        (`PriorEvidence`) has the prior run again otherwise.

        Where several kinds of evidence come together, the reward is that of the `Reward`s alone if
        there are any: probabilities and yes-or-no answers do not add up with it.
        """
        check_completions(completions)
        columns = self.columns_of(completions)
        spend(evidence_calls=len(completions) * len(self.evidence))
        device = completions.tokens_NL.device
        log_evidence_N = torch.zeros(len(completions), dtype=torch.float64, device=device)
        rewards: list[Tensor] = []
        others: list[Tensor] = []
        for evidence in self.evidence:
            try:
                if isinstance(evidence, PriorEvidence):
                    if log_prior_N is None:
                        log_prior_N = self.log_prior(completions)
                    scores = evidence.score(completions, columns, log_prior_N)
                else:
                    scores = evidence.score(completions, columns)
            except EvidenceError as error:
                raise placed(error, evidence) from error.__cause__
            log_evidence_N = log_evidence_N + self._tempered(scores.log_evidence.to(device))
            kind = rewards if is_reward(evidence) else others
            kind.append(scores.reward.to(device))
        wrong_N = log_evidence_N.isnan() | log_evidence_N.isposinf()
        if bool(wrong_N.any()):
            row = int(wrong_N.nonzero()[0])
            raise EvidenceError(
                f"the log-evidence of completion {row} ({completions.texts[row][:60]!r}) is "
                f"{float(log_evidence_N[row])}",
                hint="log e(c, y) may be any finite number of nats, or -inf where it rules one out",
            )
        reward_N = sum(rewards or others, torch.zeros_like(log_evidence_N))
        return Scores(log_evidence_N, reward_N)

    def prefix_log_evidence(
        self, completions: Completions, log_prior_N: Tensor | None = None
    ) -> Tensor | None:
        """The evidence of completions that have not ended yet, float64 [N] (see
        `PrefixEvidence`); None where none of it can. `log_prior_N` as for `score`."""
        columns = self.columns_of(completions)
        found: list[Tensor | None] = []
        for evidence in self.evidence:
            if isinstance(evidence, PriorEvidence):
                if log_prior_N is None:
                    log_prior_N = self.log_prior(completions)
                found.append(evidence.prefix_log_evidence(completions, columns, log_prior_N))
            elif isinstance(evidence, PrefixEvidence):
                found.append(evidence.prefix_log_evidence(completions, columns))
        spend(evidence_calls=len(completions) * len(found))
        device = completions.tokens_NL.device
        parts = [self._tempered(each.to(device)) for each in found if each is not None]
        return torch.stack(parts).sum(0) if parts else None

    @property
    def max_log_evidence(self) -> float | None:
        """The largest log e there can be, in nats; None unless all evidence states its own
        (`max_log_evidence`: 0 for likelihoods and constraints, a reward's `max_reward` / beta)."""
        if self.temper == 0.0:
            return 0.0
        bounds = [each.max_log_evidence for each in those(self.evidence, BoundedEvidence)]
        known = [bound for bound in bounds if bound is not None]
        return self.temper * sum(known) if len(known) == len(self.evidence) else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the evidence has to say of itself: calls that failed, a badly determined lambda."""
        hooked = those(self.evidence, ReportsFindings)
        return tuple(found for each in hooked for found in each.findings)

    def errors_of_fit(self, completions: Completions) -> ErrorsOfFit | None:
        """What evidence that was fitted to draws (`Moments`, `BestOf`) leaves open in log e of
        completions; None where there is none such, or it is exact."""
        columns = self.columns_of(completions)
        fitted = [each for each in self.evidence if isinstance(each, FittedEvidence)]
        found = [each.errors_of_fit(completions, columns) for each in fitted]
        known = [each for each in found if each is not None]
        if not known:
            return None
        change_NM = torch.cat([each.change_NM.cpu() for each in known], dim=1)
        shared = [each for errors in known for each in errors.shared_by_direction()]
        return ErrorsOfFit(self.temper * change_NM, shared)

    def means_met(self, draws: Draws | Completions) -> tuple[WantedMean, ...]:
        """The means that the evidence wants (`Moments`), with what draws have of them: weighted
        draws stand for the target, completions for what drew them."""
        return tuple(
            mean
            for each in self.evidence
            if isinstance(each, MeansEvidence)
            for mean in each.means_met(draws)
        )

    def _tempered(self, log_evidence_N: Tensor) -> Tensor:
        if self.temper == 1.0:
            return log_evidence_N
        if self.temper == 0.0:
            return torch.zeros_like(log_evidence_N)
        return self.temper * log_evidence_N

    def columns_of(self, completions: Completions) -> dict[str, list[Any]]:
        """Each column's value for each completion, looked up by the completion's prompt."""
        if not self.columns:
            return {}
        rows = ints(self.prompt_positions(completions))
        return {name: [values[row] for row in rows] for name, values in self.columns.items()}

    def prompt_positions(self, completions: Completions) -> Tensor:
        """Where in `prompts` each completion's prompt stands; [N]. Raises `EvidenceError`.

        A prompt that is there twice goes by the row that it is (`occurrence`); one from elsewhere,
        which does not know, by its place where the completions keep all prompts in the same order,
        and by the last of its rows otherwise.
        """
        asked = tuple(completions.prompt_set)
        twice = len(self._position) != len(self.prompts)
        if asked == self.prompts and not (twice and any(map(_moved, enumerate(asked)))):
            return completions.prompt_index_N
        positions: list[int] = []
        for prompt in asked:
            key, place = prompt_key(prompt), place_of(prompt)
            if key not in self._position:
                raise EvidenceError(
                    f"the prompt {str(prompt)[:60]!r} is not one of the target's",
                    hint="score completions of target.prompts",
                )
            known = place is not None and place < len(self.prompts)
            if place is None or not known or prompt_key(self.prompts[place]) != key:
                place = self._position[key]
            positions.append(place)
        device = completions.prompt_index_N.device
        return torch.tensor(positions, device=device)[completions.prompt_index_N]


def _found_apart(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts; those that are there several times know which row they are."""
    number = Counter(map(prompt_key, prompts))
    return tuple(
        marked(prompt, at) if number[prompt_key(prompt)] > 1 else prompt
        for at, prompt in enumerate(prompts)
    )


def _moved(placed: tuple[int, Prompt]) -> bool:
    at, prompt = placed
    return place_of(prompt) not in (None, at)
