"""The law of the best of n draws as evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.hooks import AsksFunctions, CountsCalls, ReportsFindings, name_of
from posteriori.core.protocols import Columns, ErrorsOfFit, Evidence, Scores
from posteriori.core.tensors import ints
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count
from posteriori.evidence.reward import Reward, RewardLike
from posteriori.evidence.shown import ShownEvidence

from .prior_pool import Method, PriorPool
from .rank_law import RankLaw

if TYPE_CHECKING:
    from posteriori.core.journal.pieces import Counter
    from posteriori.core.target import Target

_DRAWS_PER_BEST = 8


class BestOf(ShownEvidence):
    """Being the best of n as evidence: the target is the law of best-of-n sampling.

        log e(c, y) = log [(F^n - F_-^n) / (F - F_-)],   prior x e = law of the best of n

    F(s) = P_prior(score <= s | c) at y's own score, F_- just below it; ties are broken at random.
    Without ties e = n F^(n-1). Z = 1, KL(p*, prior) <= log n - (n - 1)/n, and no beta is to be
    chosen: only the order of the scores counts. The evidence is at most n, so rejection is exact.
    A policy that is fitted to it draws at once what best-of-n draws in n (BOND: Sessa et al. 2024,
    arXiv 2407.14622; vBoN: Amini et al. 2024, arXiv 2407.06057).

    F is summed over all outcomes where there are few, and otherwise comes from draws of the prior,
    with `errors_of_fit` in every figure of `evaluate`. A score of -inf stays ruled out. The reward
    that is reported is the score.

    Args:
        fn: a reward function, as `Reward` takes it (or a list of them, which are added up), or
            evidence, whose log e is the score.
        n: of how many draws it is to be the best.
        num_samples: draws of the prior per prompt that F comes from; many more than n.
        seed: of these draws.
        method: "enumerate" (all outcomes), "draws", or "auto": enumerate where there are at most
            20,000.
        settings: of a reward function: those of `Reward`.

    Raises:
        ConfigError: for n below 1, or a target with another prior or max_new_tokens.
        EvidenceError: when scoring, where the function fails.

    Example:
        >>> def reward(completions, **_):
        ...     return [float(text.count("a")) for text in completions]
        >>> exact = po.exact(po.Target(prior, po.BestOf(reward, n=4), ["x"], 3))
        >>> bool(abs(exact.log_z[0]) < 1e-9)
        True
    """

    is_reward = True

    @named_arguments
    def __init__(
        self,
        fn: RewardLike | Evidence | Sequence[RewardLike],
        n: int,
        *,
        num_samples: int = 1000,
        seed: int = 0,
        method: Method = "auto",
        **settings: Any,
    ) -> None:
        self.n = count(n, "n", where="BestOf")
        given = isinstance(fn, Evidence)
        scorer: Any = fn if given else Reward(fn, beta=1.0, **settings)
        self.pool = PriorPool(
            scorer, of_reward=not given, num_samples=num_samples, seed=seed, method=method
        )
        self.scorer = scorer
        self.name = f"best of {self.n} by {name_of(scorer)}"
        self.max_log_evidence = math.log(self.n)

    def bind(self, target: Target) -> None:
        """From now on F is that of this target's prior."""
        self.pool.bind(target, "BestOf")

    def in_float64(self) -> BestOfLaw:
        """With the same F, in a target whose prior is rounded otherwise."""
        return BestOfLaw(self)

    @property
    def functions(self) -> Sequence[tuple[str, Callable[..., Any]]]:
        """The functions that score, with their names in messages."""
        return self.scorer.functions if isinstance(self.scorer, AsksFunctions) else ()

    @property
    def callers(self) -> Sequence[Counter]:
        """What calls these functions, and counts it."""
        return self.scorer.callers if isinstance(self.scorer, CountsCalls) else ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the scores have to say, and whether F is known where the best of n are."""
        own = self.scorer.findings if isinstance(self.scorer, ReportsFindings) else ()
        drawn = [pool for pool in self.pool.known() if not pool.is_exact]
        if not drawn or self.pool.num_samples >= _DRAWS_PER_BEST * self.n:
            return own
        few = Finding(
            "warn",
            "few_draws_for_best_of_n",
            f"the best of {self.n} are judged by {self.pool.num_samples:,} draws of the prior per "
            f"prompt, so that about {self.pool.num_samples / self.n:.1f} of them are as good.",
            f"Set num_samples to {10 * self.n:,} or more.",
        )
        return (*own, few)

    def score(self, completions: Completions, columns: Columns) -> Scores:
        score_N = self.pool.scores(completions, columns)
        log_e_N = self._by_prompt(
            completions, columns, lambda law, score_n: law.log_best_of(score_n, self.n), score_N
        )
        return Scores(log_e_N.masked_fill(score_N.isneginf(), -math.inf), score_N)

    def errors_of_fit(self, completions: Completions, columns: Columns) -> ErrorsOfFit | None:
        """What the errors of F leave open in log e; None where it is exact."""
        if all(pool is None or pool.is_exact for pool in self.pool.of(completions, columns)):
            return None
        change_NM = self._by_prompt(
            completions,
            columns,
            lambda law, score_n: law.errors(score_n, self.n),
            self.pool.scores(completions, columns),
        )
        return ErrorsOfFit(change_NM, shared=False)

    def _by_prompt(
        self,
        completions: Completions,
        columns: Columns,
        of: Callable[[RankLaw, Tensor], Tensor],
        score_N: Tensor,
    ) -> Tensor:
        at_N = completions.prompt_index_N.cpu()
        pools = self.pool.of(completions, columns)
        found: Tensor | None = None
        for at in sorted(set(ints(at_N))):
            pool = pools[at]
            assert pool is not None, "a prompt with completions has a pool"
            rows_n = (at_N == at).nonzero()[:, 0]
            value_n = of(RankLaw(pool), score_N[rows_n])
            if found is None:
                found = torch.zeros((len(score_N), *value_n.shape[1:]), dtype=torch.float64)
            found[rows_n] = value_n
        return torch.zeros(0, dtype=torch.float64) if found is None else found


class BestOfLaw:
    """A `BestOf` that belongs to its first target and is scored in another."""

    is_reward = True

    def __init__(self, of: BestOf) -> None:
        self.of, self.name = of, of.name
        self.max_log_evidence = of.max_log_evidence

    def score(self, completions: Completions, columns: Columns) -> Scores:
        return self.of.score(completions, columns)
