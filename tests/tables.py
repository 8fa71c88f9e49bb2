"""Tables of any wanted distribution over the outcomes of an enumerated target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from helpers import WORDS, OracleCase
from torch import Tensor

import posteriori as po
from posteriori.diagnostics.exact.exact import Exact


def as_table(exact: Exact, log_prob: Sequence[Tensor]) -> po.TabularLM:
    """The table that gives every outcome the probability exp(log_prob), prompt by prompt."""
    lm, depth = exact.target.prior, exact.target.max_new_tokens
    prefixes = [
        prefix
        for length in range(depth)
        for prefix in itertools.product(range(1, lm.vocab_size), repeat=length)
    ]
    row = {prefix: at for at, prefix in enumerate(prefixes)}
    mass_PRV = torch.zeros(len(log_prob), len(prefixes), lm.vocab_size, dtype=torch.float64)
    for at, (outcomes, log_p) in enumerate(zip(exact.outcomes, log_prob, strict=True)):
        for ids, p in zip(outcomes.completion_ids, log_p.exp().tolist(), strict=True):
            for length, token in enumerate(ids):
                mass_PRV[at, row[tuple(ids[:length])], token] += p
    never_PR1 = (mass_PRV.sum(-1) == 0)[..., None]
    words = WORDS[: lm.vocab_size]
    return po.TabularLM(mass_PRV.log().where(~never_PR1, 0.0), exact.target.prompts, words)


def tilted(exact: Exact, t: float) -> list[Tensor]:
    """log p*_t of every outcome, p*_t ~ prior e^t."""
    found = []
    for log_prior, log_e in zip(exact.log_prior, exact.log_evidence, strict=True):
        log_p = (log_prior + t * log_e).masked_fill(log_e.isneginf(), -math.inf)
        found.append(log_p - log_p.logsumexp(0))
    return found


def posterior_table(target: po.Target, t: float = 1.0) -> po.TabularLM:
    """The exact posterior of the target's evidence to the power t, as a policy."""
    exact = po.exact(target)
    return as_table(exact, tilted(exact, t))


def off_the_curve(exact: Exact, t: float = 0.6, seed: int = 0, scale: float = 0.7) -> po.TabularLM:
    """A posterior with noise on every log-probability: nearest to a strength in between."""
    noise = torch.Generator().manual_seed(seed)
    shaken = [
        log_p + scale * torch.randn(log_p.shape, generator=noise, dtype=torch.float64)
        for log_p in tilted(exact, t)
    ]
    return as_table(exact, [log_p - log_p.logsumexp(0) for log_p in shaken])


def tabular_oracle(name: str, reward, beta: float = 0.5) -> po.Target:
    """An oracle case with its prior as a table, which tables can be judged against."""
    prior = _tabular_prior(name)
    return po.Target(prior, po.Reward(reward, beta=beta), prior.prompts, 4)


@lru_cache
def _tabular_prior(name: str) -> po.TabularLM:
    exact = po.exact(OracleCase(name).target())
    return as_table(exact, exact.log_prior)
