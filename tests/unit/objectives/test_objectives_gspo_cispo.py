"""One ratio for an outcome, and the ratio as a weight: against grpo, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from posteriori.objectives.policy_gradient.cispo import CISPO
from posteriori.objectives.policy_gradient.grpo import GRPO
from posteriori.objectives.policy_gradient.gspo import GSPO
from posteriori.testing.worlds import World

EXACT = 1e-10


def constants() -> dict[str, Tensor]:
    """Outcomes of three and of one token, with advantages 2 and -1."""
    return {
        "advantage_N1": torch.tensor([[2.0], [-1.0]], dtype=torch.float64),
        "log_drawn_NL": torch.tensor([[-1.0, -2.0, -0.5], [-1.5, 0.0, 0.0]], dtype=torch.float64),
        "log_prior_NL": torch.zeros(2, 3, dtype=torch.float64),
        "ratio_N": torch.ones(2, dtype=torch.float64),
        "mask_NL": torch.tensor([[True, True, True], [True, False, False]]),
    }


def moved() -> Tensor:
    """log pi after an update: log-ratios 0.3, -0.1, 0.4; and 0.5."""
    log_pi = [[-0.7, -2.1, -0.1], [-1.0, 0.0, 0.0]]
    return torch.tensor(log_pi, dtype=torch.float64, requires_grad=True)


def loss_and_gradient(objective: GRPO[Any]) -> tuple[Tensor, Tensor]:
    log_pi_nL = moved()
    loss_n = objective.loss(log_pi_nL, constants())
    return loss_n.detach(), torch.autograd.grad(loss_n.sum(), [log_pi_nL])[0]


@pytest.mark.parametrize("aggregation", ["sequence", "token_mean"])
@pytest.mark.parametrize("kind", [GSPO, CISPO])
def test_the_first_update_after_a_draw_is_grpos(kind, aggregation):
    world = World(("x", "y"), 2)
    found = world.expected_gradient(kind(aggregation=aggregation))
    expected = world.expected_gradient(GRPO(aggregation=aggregation))
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def test_gspo_by_hand():
    """s = exp(0.2) for three tokens, above 1.2 and so cut off; exp(0.5) with A < 0 is not."""
    loss, gradient = loss_and_gradient(GSPO(clip=0.2))
    s = torch.tensor([0.2, 0.5], dtype=torch.float64).exp()
    expected = torch.stack([-3 * 1.2 * 2.0 * torch.ones(()).double(), s[1]])
    torch.testing.assert_close(loss, expected, rtol=0, atol=EXACT)
    assert gradient[0].tolist() == [0.0, 0.0, 0.0]
    assert float(gradient[1, 0]) == pytest.approx(float(s[1]), abs=EXACT)
    _, free = loss_and_gradient(GSPO(clip=None))
    assert free[0].tolist() == pytest.approx([-2.0 * float(s[0])] * 3, abs=EXACT)


def test_cispo_by_hand():
    """Ratios exp(0.3) and exp(0.4) count as 1.2 and keep a gradient; exp(-0.1) is as it is."""
    _, gradient = loss_and_gradient(CISPO(clip=0.2))
    low = float(torch.tensor(-0.1, dtype=torch.float64).exp())
    assert gradient[0].tolist() == pytest.approx([-2.4, -2.0 * low, -2.4], abs=EXACT)
    assert gradient[1].tolist() == pytest.approx([1.2, 0.0, 0.0], abs=EXACT)
    _, grpos = loss_and_gradient(GRPO(clip=0.2))
    assert grpos[0, 0] == 0.0, "where grpo has none"
