"""Rewards that are anchored to the prior's mode, against mode collapse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns, Scores
from posteriori.core.tensors import ints
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import finite, in_short
from posteriori.errors import ConfigError, EvidenceError
from posteriori.evidence.beta import check_beta, known_beta
from posteriori.evidence.reward import Reward, RewardLike
from posteriori.evidence.shown import ShownEvidence

from .prior_pool import Method, Pool, PriorPool

if TYPE_CHECKING:
    from posteriori.core.journal.pieces import Counter
    from posteriori.core.target import Target


class Anchored(ShownEvidence):
    """A reward whose good answers are all equally wanted: the target is flat over them.

        log e(c, y) = r(c, z) / beta + log prior(z|c) - log prior(y|c)   where r(c, y) >= threshold
                    = r(c, y) / beta                                     elsewhere

    z is the anchor of its prompt: of what reaches the threshold, that which the prior finds most
    likely. KL-regularised RL prefers, among answers of one reward, those that the prior prefers,
    as exp((r - r') / beta) prior / prior' has it, and so collapses onto a mode at any beta; here
    each answer above the threshold has the anchor's probability, however rare it was, and what is
    below stays as it is (mode anchored reward augmentation, MARA: GX-Chen et al. 2025,
    arXiv 2510.20817). A completion of the smallest prior probability counts as much: `fn` has to
    distinguish good ones from such as only look good.

    The anchor is found among all outcomes where there are few, and otherwise among draws of the
    prior: those say what the plateau's height is, and given it the evidence is exact. The reward
    that is reported is r.

    Args:
        fn: a reward function, as `Reward` takes it, or a list of them, which are added up.
        beta: in units of the reward, above 0; left out, `fit` finds it from a budget, or
            `with_beta` sets it.
        threshold: from which reward on an answer is good, in units of the reward.
        num_samples: draws of the prior per prompt that the anchor is found among.
        seed: of these draws.
        method: "enumerate" (all outcomes), "draws", or "auto": enumerate where there are at most
            20,000.
        settings: those of `Reward`.

    Raises:
        ConfigError: for a beta or threshold that is no such number, or a target with another prior
            or max_new_tokens.
        EvidenceError: when scoring, where no completion of the prior reaches the threshold, so
            that there is no anchor.

    Example:
        >>> def reward(completions, **_):
        ...     return [float("a" in text) for text in completions]
        >>> exact = po.exact(po.Target(prior, po.Anchored(reward, 0.1, threshold=1.0), ["x"], 3))
        >>> good = exact.log_posterior[0][exact.reward[0] == 1.0]
        >>> bool(good.max() - good.min() < 1e-9)
        True
    """

    is_reward = True
    needs_log_prior = True

    @named_arguments
    def __init__(
        self,
        fn: RewardLike | Sequence[RewardLike],
        beta: float | None = None,
        *,
        threshold: float,
        num_samples: int = 1000,
        seed: int = 0,
        method: Method = "auto",
        **settings: Any,
    ) -> None:
        if finite(threshold) is None:
            raise ConfigError(
                f"threshold={in_short(threshold)} must be a finite number",
                where="Anchored",
                hint="it is the reward from which on an answer is good",
            )
        self.beta = None if beta is None else check_beta(beta, "Anchored")
        self.threshold = float(threshold)
        self.reward = Reward(fn, beta=1.0, **settings)
        self.pool = PriorPool(
            self.reward, of_reward=True, num_samples=num_samples, seed=seed, method=method
        )
        self.name = f"anchored {self.reward.name}"

    def with_beta(self, beta: float) -> Anchored:
        """The same rewards and anchors at another beta."""
        other = copy.copy(self)
        other.beta = check_beta(beta, "Anchored")
        return other

    def bind(self, target: Target) -> None:
        """From now on the anchors are those of this target's prior."""
        self.pool.bind(target, "Anchored")

    def in_float64(self) -> AnchoredReward:
        """With the same anchors, in a target whose prior is rounded otherwise."""
        return AnchoredReward(self)

    @property
    def functions(self) -> list[tuple[str, Callable[..., Any]]]:
        """The reward functions, with their names in messages."""
        return self.reward.functions

    @property
    def callers(self) -> Sequence[Counter]:
        """What calls these functions, and counts it."""
        return self.reward.callers

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the calls have to say."""
        return self.reward.findings

    def score(self, completions: Completions, columns: Columns, log_prior_N: Tensor) -> Scores:
        beta = known_beta(self.beta, "Anchored")
        reward_N = self.pool.scores(completions, columns)
        log_prior_N = log_prior_N.cpu().double()
        plateau_N = self._plateau(completions, columns, beta)
        good_N = reward_N >= self.threshold
        log_e_N = (plateau_N - log_prior_N).where(good_N, reward_N / beta)
        # What the prior cannot say is no answer of the target's.
        never_N = log_prior_N.isneginf()
        return Scores(log_e_N.masked_fill(never_N, -math.inf), reward_N)

    def prefix_log_evidence(
        self,
        completions: Completions,  # noqa: ARG002 - a reward says nothing before the end
        columns: Columns,  # noqa: ARG002
        log_prior_N: Tensor,  # noqa: ARG002
    ) -> None:
        """None: what has not ended has no reward."""
        return

    def _plateau(self, completions: Completions, columns: Columns, beta: float) -> Tensor:
        """log p~ of every good answer to each completion's prompt, nats [N]."""
        at_N = completions.prompt_index_N.cpu()
        pools = self.pool.of(completions, columns)
        height_P = torch.full((len(pools),), math.nan, dtype=torch.float64)
        for at in sorted(set(ints(at_N))):
            pool = pools[at]
            assert pool is not None, "a prompt with completions has a pool"
            height_P[at] = self._height(pool, beta, str(completions.prompt_set[at]))
        return height_P[at_N]

    def _height(self, pool: Pool, beta: float, prompt: str) -> float:
        good_n = (pool.score_n >= self.threshold) & ~pool.log_prior_n.isneginf()
        if not bool(good_n.any()):
            among = "outcomes" if pool.is_exact else "draws"
            raise EvidenceError(
                f"none of {len(pool.score_n):,} {among} of the prior after {prompt[:60]!r} has a "
                f"reward of {self.threshold:g}: the largest is {float(pool.score_n.max()):g}",
                where=self.name,
                hint="lower threshold, or raise num_samples",
            )
        log_prior_n = pool.log_prior_n.masked_fill(~good_n, -math.inf)
        anchor = int(log_prior_n.argmax())
        return float(pool.score_n[anchor]) / beta + float(log_prior_n[anchor])


class AnchoredReward:
    """An `Anchored` that belongs to its first target and is scored in another."""

    is_reward = True
    needs_log_prior = True

    def __init__(self, of: Anchored) -> None:
        self.of, self.name, self.beta = of, of.name, of.beta

    def score(self, completions: Completions, columns: Columns, log_prior_N: Tensor) -> Scores:
        return self.of.score(completions, columns, log_prior_N)

    def prefix_log_evidence(
        self,
        completions: Completions,  # noqa: ARG002 - a reward says nothing before the end
        columns: Columns,  # noqa: ARG002
        log_prior_N: Tensor,  # noqa: ARG002
    ) -> None:
        return
