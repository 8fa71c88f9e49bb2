"""Drawing from a proposal and asking the target about the draws."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from posteriori.core.journal.journal import once

from .completions import Completions
from .cost import counted
from .occurrence import Prompt
from .protocols import LanguageModel
from .run.progress import Progress, one_pass, portions
from .same_outcomes import check_same_outcomes
from .target import Target
from .tensors import distinct, ints
from .types import Cost, Draws


def draw(
    target: Target,
    proposal: LanguageModel,
    num_samples: int,
    generator: torch.Generator | None = None,
    prompts: Sequence[Prompt] | None = None,
    *,
    on_progress: Progress | None = None,
) -> Draws:
    """y ~ proposal(.|c), `num_samples` per prompt, with log p~ and log proposal of each.

    The proposal's log-probs are those that its sampler returns: no second pass. Where the proposal
    is the prior itself, they serve as log prior too. `on_progress` counts passes over completions:
    drawing them, scoring them by the prior (where that is needed), and asking the evidence.
    A finished piece of work: see `core.journal.journal`.
    """
    asked = target.prompts if prompts is None else prompts
    check_same_outcomes(target.prior, proposal, asked, "proposal")
    return once(
        lambda: _draw(target, proposal, num_samples, generator, asked, on_progress), generator
    )


def _draw(
    target: Target,
    proposal: LanguageModel,
    num_samples: int,
    generator: torch.Generator | None,
    asked: Sequence[Prompt],
    on_progress: Progress | None,
) -> Draws:
    start = time.perf_counter()
    number = num_samples * len(asked)
    passes = 1 if proposal is target.prior else 2
    drawing, *scoring, judging = portions(on_progress, [number] * (passes + 1))
    with one_pass(drawing, number):
        completions = once(
            lambda: proposal.sample(asked, num_samples, target.max_new_tokens, generator),
            generator,
        )
    assert completions.token_log_prob_NL is not None, "a sampler returns its draws' log-probs"
    if proposal is target.prior:
        token_log_prior_NL = completions.token_log_prob_NL
    else:
        with one_pass(scoring[0], number):
            token_log_prior_NL = target.token_log_prior(completions)
    log_prior_N = token_log_prior_NL.sum(-1)
    with one_pass(judging, number), counted() as spent:
        scores = target.score(completions, log_prior_N)
    return Draws(
        completions=completions,
        log_proposal_N=completions.token_log_prob_NL.sum(-1),
        log_prior_N=log_prior_N,
        log_evidence_N=scores.log_evidence,
        reward_N=scores.reward,
        cost=spent.cost
        + Cost(passes * lm_tokens(completions), seconds=time.perf_counter() - start),
        token_log_prior_NL=token_log_prior_NL,
    )


def lm_tokens(completions: Completions) -> int:
    """Tokens of one pass: every completion's own, and once those of each prompt that has any."""
    asked = ints(distinct(completions.prompt_index_N))
    prompts = sum(len(completions.prompt_ids[at]) for at in asked)
    return int(completions.lengths_N.sum()) + prompts
