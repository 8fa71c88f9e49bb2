"""A language model is a distribution over outcomes: it sums to one, and draws what it says."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.diagnostics.exact.exact import enumerate_outcomes

from .failures import CheckFailedError


@torch.no_grad()
def check_language_model(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    *,
    num_samples: int = 32,
    tolerance: float = 1e-4,
) -> None:
    """A language model is a distribution over outcomes, and scores what it draws.

        sum_y pi(y|c) = 1

    Draws come with their own log-probs, and a log-prob depends on no other row of its batch.

    Args:
        lm: a language model with few tokens: all V^max_new_tokens outcomes are scored.
        prompts: of different lengths, best.
        max_new_tokens: the longest completion.
        num_samples: draws per prompt that are scored again.
        tolerance: in nats per completion, for rounding.

    Returns:
        None.

    Raises:
        CheckFailedError: one of these does not hold.

    Example:
        >>> from posteriori import testing
        >>> case = testing.model_case("llama")
        >>> testing.check_language_model(case.target.prior, case.target.prompts, 3)
    """
    target = Target(lm, [], list(prompts), max_new_tokens)
    for prompt in target.prompts:
        outcomes = enumerate_outcomes(target, prompt)
        log_prob_N = lm.log_prob(outcomes)
        if log_prob_N.dtype != torch.float64 or log_prob_N.shape != (len(outcomes),):
            raise CheckFailedError(
                f"log_prob is {log_prob_N.dtype} {list(log_prob_N.shape)}, not float64 [N]"
            )
        total = float(log_prob_N.exp().sum())
        if not abs(total - 1) <= tolerance:
            raise CheckFailedError(f"the outcomes of prompt {prompt!r} sum to {total:.6g}, not 1")
        order = torch.randperm(len(outcomes), generator=generator(0, "check"))
        again_N = torch.empty_like(log_prob_N)
        for rows in order.split(max(1, len(order) // 3)):
            again_N[rows] = lm.log_prob(outcomes.select(rows))
        _check_same(again_N, log_prob_N, tolerance, "a log-prob depends on the rest of its batch")
    drawn = lm.sample(target.prompts, num_samples, max_new_tokens, generator(0, "draws"))
    again = lm.sample(target.prompts, num_samples, max_new_tokens, generator(0, "draws"))
    if drawn.completion_ids != again.completion_ids:
        raise CheckFailedError("the same generator gave other draws the second time")
    if drawn.log_prob_N is not None:
        _check_same(lm.log_prob(drawn), drawn.log_prob_N, tolerance, "draws are scored otherwise")


def _check_same(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str) -> None:
    gap = (found - wanted).abs().masked_fill(found == wanted, 0.0)
    if not float(gap.max()) <= tolerance:
        raise CheckFailedError(f"{what}: by {float(gap.max()):.2g} nats")
