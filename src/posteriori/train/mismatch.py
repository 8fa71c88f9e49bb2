"""How far draws of an engine are from the model that it draws for."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.types import Draws, Finding
from posteriori.objectives.base import OF_MODEL, count_by, log_sum_by

LEAST = 0.5
"""Share of the draws below which a finding says so."""


def own_log_prob(draws: Draws) -> Tensor | None:
    """log pi of draws by an engine, under the model that it draws for, [N]; None of other draws."""
    found = draws.attached.get(OF_MODEL)
    return None if found is None else found.sum(-1).to(draws.log_prior_N)


def mismatch(draws: Draws) -> dict[str, float]:
    """`engine_kl` = KL(q, pi), nats per completion, q what the engine draws from and pi the model:
    the mean over draws of r - 1 - log r, r = pi/q, which is unbiased and never below 0 (the
    estimator "k3"). `engine_ess`: (sum r)^2 / sum r^2 over a prompt's draws, as a share of them, in
    the mean over prompts. Nothing for draws that no engine made."""
    own_N = own_log_prob(draws)
    if own_N is None:
        return {}
    log_r_N = own_N - draws.log_proposal_N
    prompt_N = draws.completions.prompt_index_N
    log_ess_P = 2 * log_sum_by(log_r_N, prompt_N) - log_sum_by(2 * log_r_N, prompt_N)
    count_P = count_by(prompt_N)
    share_P = (log_ess_P.exp() / count_P)[count_P > 0]
    return {
        "engine_kl": float((torch.expm1(log_r_N) - log_r_N).mean()),
        "engine_ess": float(share_P.mean()),
    }


def mismatch_finding(figures: dict[str, float], step: int) -> Finding | None:
    """That the weights pi/q leave less than half of the draws."""
    share = figures.get("engine_ess", 1.0)
    if share >= LEAST:
        return None
    return Finding(
        "warn",
        "engine_mismatch",
        f"In step {step} the engine's draws are worth {share:.0%} of as many draws of the model "
        f"(KL {figures['engine_kl']:.2g} nats per completion): they are weighed by pi/q exactly, "
        "and the gradient is so much noisier.",
        "Give the engine a finer dtype, or lower max_new_tokens: the mismatch grows with every "
        "token.",
    )
