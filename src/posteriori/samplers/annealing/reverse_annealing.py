"""An upper bound on log Z: annealing backwards, from exact draws of the target to the proposal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from posteriori.core.estimates import combine, log_mean_weight
from posteriori.core.protocols import LanguageModel
from posteriori.core.same_outcomes import check_outcomes_of
from posteriori.core.seeds import generator as stream
from posteriori.core.target import Target
from posteriori.core.types import Draws, Estimate
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, SamplingError
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves

from .ladder import check_ladder


@named_arguments
def reverse_annealed_log_z(
    target: Target,
    exact_draws: Draws,
    ladder: Sequence[float],
    *,
    proposal: LanguageModel | None = None,
    moves: int = 2,
    seed: int = 0,
) -> Estimate:
    """An upper bound on log Z in expectation, by annealing from exact draws back to the proposal.

        y ~ p*,  then for k = K .. 1:   y ~ M_k(. | y),   lw += (t_k - t_{k-1}) log w(y);
        log Z-hat = -log (1/N) sum_i exp(-lw_i),     E[exp(-lw)] = 1/Z,   so E log Z-hat >= log Z

    The same path as `annealed`, backwards: suffix moves are reversible, so M_k is its own reverse.
    With hard evidence E[exp(-lw)] = P_q(w > 0)/Z, since a path back never meets what is ruled out:
    the bound holds, and stays above log Z by at least -log P_q(w > 0). (Bidirectional Monte Carlo:
    Grosse, Ghahramani and Adams 2015, arXiv 1511.02543, section 3.1.)

    Args:
        target: the target.
        exact_draws: independent draws of p* itself, by `rejection` or enumeration.
        ladder: powers of the evidence that climb from 0 to 1; see `adapt_ladder`.
        proposal: where the path ends; default: the prior.
        moves: suffix moves per rung.
        seed: of the moves.

    Returns:
        The bound in nats, of kind "upper_bound", with one per prompt inside and standard errors
        over draws.

    Raises:
        ConfigError: for draws that are not exact, or a ladder that does not climb from 0 to 1.
        SamplingError: where a prompt has no draw.

    Example:
        >>> bounded = po.Target(prior, po.Reward(reward, beta=0.5, max_reward=3.0), ["x", "y"], 3)
        >>> exact_draws = po.sample(bounded, "rejection", num_samples=50, seed=0)
        >>> ladder = po.adapt_ladder(bounded, seed=0)
        >>> po.reverse_annealed_log_z(bounded, exact_draws, ladder, seed=0).kind
        'upper_bound'
    """
    check_ladder(ladder)
    if exact_draws.guarantee != "exact":
        raise ConfigError(
            f"the draws are '{exact_draws.guarantee}', and the upper bound needs exact ones",
            hint="draw them with posteriori.sample(target, 'rejection', ..)",
        )
    kernel = SuffixMoves(target, proposal or target.prior)
    given = exact_draws.completions
    check_outcomes_of(target.prior, given, "exact_draws")
    scored = kernel.proposal.token_log_prob(given).detach()
    states = kernel.scored(replace(given, token_log_prob_NL=scored))
    random = stream(seed, "reverse_annealed_log_z")
    log_w_N = descend(kernel, ladder, states, moves, random)
    position_N = target.prompt_positions(given)
    per_prompt: list[Estimate] = []
    for at, prompt in enumerate(target.prompts):
        mine = log_w_N[position_N == at]
        if len(mine) == 0:
            raise SamplingError(
                f"there is no exact draw for the prompt {str(prompt)[:60]!r}",
                hint="draw for every prompt of the target",
            )
        inverse = log_mean_weight(-mine)
        per_prompt.append(replace(inverse, value=-inverse.value, kind="upper_bound"))
    return combine(per_prompt, "upper_bound")


def descend(
    kernel: SuffixMoves,
    ladder: Sequence[float],
    states: Draws,
    moves: int,
    generator: torch.Generator,
) -> Tensor:
    """log-weights [N] of the way down from states of the target."""
    log_w_N = torch.zeros_like(states.log_prior_N)
    for below, t in reversed(list(pairwise(ladder))):
        for _ in range(moves):
            states, _ = kernel.step(states, t, generator)
        log_w_N = log_w_N + (t - below) * kernel.log_weight(states)
    return log_w_N
