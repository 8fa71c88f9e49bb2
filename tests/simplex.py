"""Where a loss over all outcomes of a prompt is at rest, among all distributions over them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posteriori.objectives.base import Objective
from posteriori.testing.worlds import World

Population = Callable[[Tensor], Tensor]
"""log pi of every outcome [N], with gradient -> the expected loss."""


def pull(population: Population, log_pi_N: Tensor) -> Tensor:
    """The gradient in the logits of the outcomes, [N]; 0 where the loss is at rest."""
    logits_N = log_pi_N.detach().clone().requires_grad_(True)
    (gradient_N,) = torch.autograd.grad(population(logits_N.log_softmax(0)), [logits_N])
    return gradient_N


def minimum(population: Population, start_N: Tensor, most: int = 200) -> Tensor:
    """log pi [N] of the minimum next to `start_N`, by Newton's method with backtracking."""
    logits_N = start_N.detach().clone()

    def of(at_N: Tensor) -> Tensor:
        return population(at_N.log_softmax(0))

    for _ in range(most):
        gradient_N = pull(population, logits_N)
        if float(gradient_N.abs().max()) < 1e-13:
            break
        hessian_NN = torch.func.hessian(of)(logits_N)
        values_N, vectors_NN = torch.linalg.eigh(hessian_NN)
        # Adding a number to all logits changes nothing; elsewhere downhill, whatever the curvature.
        scale_N = values_N.abs().clamp(min=1e-9)
        step_N = -vectors_NN @ ((vectors_NN.T @ gradient_N) / scale_N)
        step_N = step_N - step_N.mean()
        size, before = min(1.0, 5.0 / float(step_N.abs().max())), float(of(logits_N))
        while float(of(logits_N + size * step_N)) > before and size > 1e-12:
            size /= 2
        logits_N = logits_N + size * step_N
    return logits_N.log_softmax(0)


def pairs_of(world: World) -> Tensor:
    """Rows of every pair of outcomes of a world with one prompt, one pair after another."""
    size = world.sizes[0]
    return torch.cartesian_prod(torch.arange(size), torch.arange(size)).flatten()


def over_pairs(world: World, objective: Objective, log_q_N: Tensor) -> Population:
    """The expected loss of an objective of pairs, both drawn from q."""
    rows = pairs_of(world)
    constants = objective.weigh(world.outcomes.select(rows), log_q_N[rows])
    weight_n = (log_q_N[:, None] + log_q_N).exp().flatten()

    def population(log_pi_N: Tensor) -> Tensor:
        return (weight_n * objective.loss(log_pi_N[rows][:, None], constants)).sum()

    return population


def kl(log_p_N: Tensor, log_q_N: Tensor) -> float:
    return float((log_p_N.exp() * (log_p_N - log_q_N)).sum())
