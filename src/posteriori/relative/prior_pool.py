"""What relative evidence knows of the prior: the scores of its outcomes, or of draws, by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.draw import draw
from posteriori.core.occurrence import Prompt, prompt_key
from posteriori.core.protocols import Columns, Evidence
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.tensors import ints
from posteriori.data.given_numbers import count
from posteriori.diagnostics.exact.exact import count_outcomes, exact
from posteriori.errors import ConfigError, did_you_mean

Method = Literal["auto", "draws", "enumerate"]

_FEW_OUTCOMES = 20_000
"""Up to so many, over all prompts that are asked about together, "auto" enumerates."""


@dataclass(frozen=True)
class Pool:
    """The prior's completions of one prompt: their scores and log-probs, float64 [n].

    All outcomes where `is_exact`, independent draws otherwise. `mass_n` sums to one.
    """

    score_n: Tensor
    log_prior_n: Tensor
    is_exact: bool

    @property
    def mass_n(self) -> Tensor:
        if self.is_exact:
            return self.log_prior_n.exp()
        return torch.full_like(self.score_n, 1.0 / len(self.score_n))


class PriorPool:
    """Pools of one prior, made when a prompt is first asked about.

    A prompt with other data-set columns is another prompt. `bind` says which target it is for;
    targets over other prompts may share it, and another prior or max_new_tokens may not.
    """

    def __init__(
        self, scorer: Evidence, *, of_reward: bool, num_samples: int, seed: int, method: Method
    ) -> None:
        where = "relative evidence"
        self.num_samples = count(num_samples, "num_samples", 2, where=where)
        if method not in get_args(Method):
            hint = did_you_mean(method, get_args(Method))
            raise ConfigError(f"unknown method '{method}'", where=where, hint=hint)
        self.scorer, self.of_reward = scorer, of_reward
        self.seed, self.method = seed, method
        self._target: Target | None = None
        self._pools: dict[str, Pool] = {}

    def bind(self, target: Target, where: str) -> None:
        """Raises `ConfigError` for a target whose prior or length is another than the first's."""
        if self._target is None:
            self._target = target
        same = self._target.prior is target.prior
        if not (same and self._target.max_new_tokens == target.max_new_tokens):
            raise ConfigError(
                "it belongs to a target with another prior or max_new_tokens already, and is "
                "relative to those",
                where=where,
                hint="make a new one for this target",
            )

    def scores(self, completions: Completions, columns: Columns) -> Tensor:
        """What is ranked, float64 [N]."""
        scores = self.scorer.score(completions, columns)
        return (scores.reward if self.of_reward else scores.log_evidence).cpu()

    def of(self, completions: Completions, columns: Columns) -> list[Pool | None]:
        """The pool of each prompt of `completions.prompt_set`; None where it has no completion."""
        used = sorted(set(ints(completions.prompt_index_N)))
        first = {at: row for row, at in reversed(list(enumerate(ints(completions.prompt_index_N))))}
        key = {
            at: _key(
                completions.prompt_set[at],
                {name: values[first[at]] for name, values in columns.items()},
            )
            for at in used
        }
        missing = [at for at in used if key[at] not in self._pools]
        if missing and not self._pools:
            self._fit_bound()
            missing = [at for at in missing if key[at] not in self._pools]
        if missing:
            prompts = [completions.prompt_set[at] for at in missing]
            asked = {
                name: [values[first[at]] for at in missing] for name, values in columns.items()
            }
            self._fit(prompts, asked)
        return [
            self._pools[key[at]] if at in key else None for at in range(len(completions.prompt_set))
        ]

    def known(self) -> list[Pool]:
        """Those that have been made."""
        return list(self._pools.values())

    def _fit_bound(self) -> None:
        """All prompts of the first target together: its pools do not depend on who asks first."""
        target = self._bound()
        self._fit(target.prompts, target.columns)

    def _fit(self, prompts: Sequence[Prompt], columns: Mapping[str, Sequence[Any]]) -> None:
        target = self._bound()
        rest = Target(target.prior, self.scorer, prompts, target.max_new_tokens, columns)
        for at, pool in enumerate(self._of_target(rest)):
            values = {name: each[at] for name, each in rest.columns.items()}
            self._pools[_key(rest.prompts[at], values)] = pool

    def _of_target(self, rest: Target) -> list[Pool]:
        lm = rest.prior
        outcomes = count_outcomes(lm.vocab_size, len(lm.eos_token_ids), rest.max_new_tokens)
        few = outcomes * len(rest.prompts) <= _FEW_OUTCOMES
        if self.method == "enumerate" or (self.method == "auto" and few):
            everything = exact(rest)
            scores = everything.reward if self.of_reward else everything.log_evidence
            return [
                Pool(score_n.double(), log_p_n, is_exact=True)
                for score_n, log_p_n in zip(scores, everything.log_prior, strict=True)
            ]
        keys = [prompt_key(prompt) for prompt in rest.prompts]
        seeded = generator(self.seed, "relative", *keys)
        draws = draw(rest, lm, self.num_samples, seeded)
        score_N = (draws.reward_N if self.of_reward else draws.log_evidence_N).cpu().double()
        size = (len(rest.prompts), self.num_samples)
        log_prior_PN = draws.log_prior_N.cpu().view(size)
        return [
            Pool(score_n, log_p_n, is_exact=False)
            for score_n, log_p_n in zip(score_N.view(size), log_prior_PN, strict=True)
        ]

    def _bound(self) -> Target:
        if self._target is None:
            raise ConfigError(
                "it is relative to a prior, and is part of no target yet",
                hint="make a posteriori.Target with it first",
            )
        return self._target


def _key(prompt: Prompt, columns: Mapping[str, Any]) -> str:
    return repr((prompt_key(prompt), sorted((name, repr(v)) for name, v in columns.items())))
