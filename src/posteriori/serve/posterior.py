"""What is served: a target and a sampler, and how a request's prompts become draws of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from posteriori.core.numerics import ess
from posteriori.core.occurrence import Prompt, prompt_key
from posteriori.core.prompted import Prompted, with_prefix
from posteriori.core.protocols import LanguageModel
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.seeds import derive
from posteriori.core.target import Target
from posteriori.core.tensors import ints
from posteriori.core.types import Draws, Estimate, Finding, Guarantee
from posteriori.models.causal import CausalLM
from posteriori.models.text.prompt_tokens import check_length
from posteriori.moments.moments import Moments
from posteriori.samplers.base import Sampler
from posteriori.samplers.sample import sample

from .lockstep import Lockstep
from .refusal import Refusal, bad_request

_WEIGHTED = ("properly_weighted", "asymptotic")


@dataclass(frozen=True)
class Wanted:
    """What a request asks of the posterior."""

    prompts: tuple[Prompt, ...]
    n: int
    seed: int
    max_new_tokens: int
    columns: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Drawn:
    """`n` draws per prompt, all of one weight, prompt by prompt; and the draws that they are of."""

    wanted: Wanted
    chosen: Draws
    pool: Draws
    guarantee: Guarantee
    """Of the chosen draws, which may promise less than the weighted ones that they come from."""

    @property
    def log_z(self) -> list[Estimate | None]:
        """Per prompt."""
        found, number = self.pool.log_z, len(self.wanted.prompts)
        if found is None:
            return [None] * number
        return list(found.per_prompt) if len(found.per_prompt) == number else [found] * number

    @property
    def ess(self) -> list[float]:
        """Effective draws of the pool, per prompt."""
        rows = rows_of_prompts(self.pool.completions)
        return [float(ess(self.pool.log_weight[mine].cpu())) for mine in rows]

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.pool.findings


class Posterior:
    """A target and a sampler, for prompts that come one by one.

    Args:
        target: the target; its `max_new_tokens` is the most that a request may ask for, and moments
            are taken as they are fitted.
        sampler: what draws.
        proposal: the model that the sampler draws by; the prior if None.
        num_samples: draws that are weighed per prompt, where the sampler's draws have weights.
        lockstep: where requests share passes over the models.
    """

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        proposal: LanguageModel | None,
        num_samples: int,
        lockstep: Lockstep,
    ) -> None:
        self.sampler, self.num_samples, self.lockstep = sampler, num_samples, lockstep
        evidence = [
            each.frozen() if isinstance(each, Moments) else each for each in target.evidence
        ]
        self.target = Target(
            lockstep.sharing(target.prior),
            evidence,
            target.prompts,
            target.max_new_tokens,
            target.columns,
            target.temper,
        )
        self._proposal = None if proposal is None else lockstep.sharing(proposal)
        self._row = {prompt_key(prompt): at for at, prompt in enumerate(target.prompts)}

    def draw(self, wanted: Wanted, cancelled: Callable[[], None] = lambda: None) -> Drawn:
        """Draws for a request, a function of its own parameters alone. To be called within a turn.

        `cancelled` is called now and then, and raises where the request is to end. Raises `Refusal`
        for parameters that this posterior cannot keep, and where the sampler finds fewer draws than
        it is asked for.
        """
        target = self._target_of(wanted)
        pool = self._sampled(target, self._pool_size(wanted.n), wanted, cancelled)
        weighted = pool.guarantee in _WEIGHTED
        if weighted and not self.is_weighted and wanted.n < self.num_samples:
            # Rejection has found that exact draws are out of reach, and weighs some instead.
            more = self._sampled(target, self.num_samples, wanted, cancelled)
            pool = replace(more, cost=pool.cost + more.cost)
        chosen = self._choose(pool, wanted, weighted=weighted)
        return Drawn(wanted, chosen, pool, self._guarantee(pool))

    def _sampled(
        self, target: Target, number: int, wanted: Wanted, cancelled: Callable[[], None]
    ) -> Draws:
        return sample(
            target,
            self.sampler,
            number,
            self._proposal,
            wanted.seed,
            on_progress=lambda *_: cancelled(),
        )

    def prior_draws(self, wanted: Wanted, cancelled: Callable[[], None] = lambda: None) -> Draws:
        """As many draws of the prior, with what the evidence says of each. Within a turn."""
        return sample(
            self._target_of(wanted),
            "importance",
            wanted.n,
            None,
            derive(wanted.seed, "serve", "prior"),
            on_progress=lambda *_: cancelled(),
        )

    @property
    def is_weighted(self) -> bool:
        """Whether the sampler's draws are those of the target only by their weights, or in the
        limit of many: draws of an answer are then resampled from more of them."""
        return self.sampler.guarantee in _WEIGHTED

    def _pool_size(self, n: int) -> int:
        return max(n, self.num_samples) if self.is_weighted else n

    def _guarantee(self, pool: Draws) -> Guarantee:
        found = pool.guarantee or self.sampler.guarantee
        return "asymptotic" if found == "properly_weighted" else found

    def _choose(self, pool: Draws, wanted: Wanted, *, weighted: bool) -> Draws:
        rows = rows_of_prompts(pool.completions)
        alive = [pool.log_weight[mine].cpu() > -math.inf for mine in rows]
        short = [int(each.sum()) for each in alive]
        least = 1 if weighted else wanted.n
        for prompt, found in zip(wanted.prompts, short, strict=True):
            if found < least:
                raise _too_few(pool, prompt, found, least, self.sampler.name)
        if weighted:
            return pool.resample(wanted.n, derive(wanted.seed, "serve", "resample"))
        first = [mine.cpu()[lives][: wanted.n] for mine, lives in zip(rows, alive, strict=True)]
        return pool.select(torch.cat(first).to(pool.log_prior_N.device))

    def _target_of(self, wanted: Wanted) -> Target:
        most = self.target.max_new_tokens
        if wanted.max_new_tokens > most:
            raise bad_request(
                f"max_tokens={wanted.max_new_tokens} is above {most}, the max_new_tokens of the "
                "target that is served",
                "max_tokens",
            )
        self._check_prompts(wanted)
        columns = self._columns(wanted)
        served = self.target
        data = list(wanted.prompts)
        return Target(
            served.prior, served.evidence, data, wanted.max_new_tokens, columns, served.temper
        )

    def _check_prompts(self, wanted: Wanted) -> None:
        """Raise `PromptError` for a prompt that does not fit, before it shares a pass."""
        prior = self.target.prior
        prefix = prior.prefix if isinstance(prior, Prompted) else None
        lm = prior.lm if isinstance(prior, Prompted) else prior
        for prompt in wanted.prompts:
            given = prompt if prefix is None else with_prefix(prompt, prefix)
            if isinstance(lm, CausalLM):
                ids = lm.encode(given)
                check_length(given, ids, wanted.max_new_tokens, lm.context_length)

    def _columns(self, wanted: Wanted) -> dict[str, list[Any]]:
        """The columns that evidence may need: those of the request, or those of the run file's row
        with this prompt."""
        names, given = set(self.target.columns), wanted.columns
        if given is not None:
            if given.keys() != names:
                odd = sorted(given.keys() ^ names)[0]
                side = "is missing" if odd in names else "is none of the run file's columns"
                raise bad_request(f"columns: '{odd[:60]}' {side}", "columns")
            return {name: [value] * len(wanted.prompts) for name, value in given.items()}
        rows: list[int] = []
        for prompt in wanted.prompts if names else ():
            at = self._row.get(prompt_key(prompt))
            if at is None:
                raise bad_request(
                    f"the evidence may need {', '.join(sorted(names))} of a prompt that the run "
                    "file does not have; send them as columns",
                    "columns",
                )
            rows.append(at)
        return {name: [values[at] for at in rows] for name, values in self.target.columns.items()}


def prompt_tokens(drawn: Draws) -> int:
    """Tokens of the prompts, each counted once."""
    return sum(map(len, drawn.completions.prompt_ids))


def completion_tokens(drawn: Draws) -> int:
    return sum(ints(drawn.completions.lengths_N))


def with_token_log_prior(drawn: Draws, target: Target) -> Draws:
    """The draws with the prior's log-prob of each token, scored where the sampler kept none."""
    if drawn.token_log_prior_NL is not None:
        return drawn
    return replace(drawn, token_log_prior_NL=target.token_log_prior(drawn.completions))


def _too_few(pool: Draws, prompt: Prompt, found: int, wanted: int, sampler: str) -> Refusal:
    said = [str(each.message) for each in pool.findings if each.level != "info"]
    return Refusal(
        422,
        f"'{sampler}' found {found} draws with weight of the {wanted} that are needed for "
        f"{str(prompt)[:60]!r}" + (f": {' '.join(said)}"[:600] if said else ""),
        code="too_few_draws",
    )
