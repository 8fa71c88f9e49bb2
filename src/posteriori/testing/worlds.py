"""Tiny worlds where an objective's expected gradient is a finite sum."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.diagnostics.exact.exact import exact
from posteriori.evidence.reward import Reward
from posteriori.models.tabular import TabularLM
from posteriori.objectives.base import Objective, policy_log_prob

from .cases import WORDS
from .divergences import Divergence

DEPTH = 2


def reward(completions: list[str], **_: Any) -> list[float]:
    """Neither constant, nor additive over tokens, nor blind to the end of the sequence."""
    worth = {"": 0.3, "a": -0.7, "b": 1.1, "a a": 0.2, "a b": -1.3, "b a": 0.9, "b b": 0.4}
    return [worth[text] for text in completions]


class World:
    """Every outcome of a policy that differs from the prior, and the target's view of it.

    The outcomes of all prompts stand one after another; draws are rows of them. They come from the
    policy itself, or, `elsewhere`, from a third distribution, or from the `proposal` given.
    `evidence` is a reward unless it is given.
    """

    def __init__(
        self,
        prompts: tuple[str, ...],
        num_samples: int,
        elsewhere: bool = False,
        evidence: Any = None,
        proposal: TabularLM | None = None,
    ) -> None:
        prior = TabularLM.random(WORDS, DEPTH, prompts, seed=3)
        self.policy = TabularLM.random(WORDS, DEPTH, prompts, seed=4).requires_grad_(True)
        if elsewhere:
            proposal = TabularLM.random(WORDS, DEPTH, prompts, seed=5)
        self.proposal = self.policy if proposal is None else proposal
        given = Reward(reward, beta=0.7) if evidence is None else evidence
        self.target = Target(prior, given, prompts, DEPTH)
        self.exact = exact(self.target)
        self.num_samples = num_samples
        self.sizes = [len(outcomes) for outcomes in self.exact.outcomes]
        everything = [
            (prompt, ids)
            for outcomes in self.exact.outcomes
            for prompt, ids in zip(outcomes.prompts, outcomes.completion_ids, strict=True)
        ]
        prompts_N, ids_N = zip(*everything, strict=True)
        completions = self.policy.completions(prompts_N, ids_N, DEPTH)
        with torch.no_grad():
            drawn_NL = self.proposal.token_log_prob(completions)
            prior_NL = prior.token_log_prob(completions)
        evidence_N = torch.cat(self.exact.log_evidence)
        self.outcomes = Draws(
            completions=replace(completions, token_log_prob_NL=drawn_NL),
            log_proposal_N=drawn_NL.sum(-1),
            log_prior_N=prior_NL.sum(-1),
            log_evidence_N=evidence_N,
            reward_N=evidence_N,
            token_log_prior_NL=prior_NL,
        )

    def tuples(self) -> Iterator[Tensor]:
        """Every way to draw `num_samples` outcomes for each prompt, as rows of the outcomes."""
        starts = itertools.accumulate([0, *self.sizes[:-1]])
        per_prompt = [
            itertools.product(range(start, start + size), repeat=self.num_samples)
            for start, size in zip(starts, self.sizes, strict=True)
        ]
        for chosen in itertools.product(*per_prompt):
            yield torch.tensor([row for rows in chosen for row in rows])

    def expected_gradient(
        self, objective: Objective, token_log_prob_NL: Tensor | None = None
    ) -> Tensor:
        """E over all draws of the gradient of the mean loss.

        `token_log_prob_NL`: what the loss is given as log pi, if not the truth.
        """
        objective.proposal(self.target, self.policy)
        outcomes = objective.complete(self.target, self.outcomes)
        log_pi_N = self.policy.log_prob(outcomes.completions).detach()
        if token_log_prob_NL is None:
            known = outcomes.attached
            token_log_prob_NL, _ = policy_log_prob(
                objective, self.policy, outcomes.completions, known
            )
        total = torch.zeros((), dtype=torch.float64)
        for rows in self.tuples():
            draws = outcomes.select(rows)
            constants = objective.weigh(draws, log_pi_N[rows])
            probability = draws.log_proposal_N.sum().exp()
            loss = objective.loss(token_log_prob_NL[rows], constants).mean()
            total = total + probability * loss
        (gradient,) = torch.autograd.grad(total, [self.policy.logits])
        return gradient

    def gradient_of(self, divergence: Divergence) -> Tensor:
        """Autograd's gradient of the mean over prompts of a divergence, from all outcomes."""
        log_pi = self.policy.log_prob(self.outcomes.completions).split(self.sizes)
        parts = zip(log_pi, self.exact.log_prior, self.exact.log_evidence, strict=True)
        mean = torch.stack([divergence(*part) for part in parts]).mean()
        return torch.autograd.grad(mean, [self.policy.logits])[0]
