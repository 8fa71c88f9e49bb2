"""Old, new and half-loaded weights are distinguished, also where rounding is larger than a step.

No alarm in 5,000 honest updates (6 standard errors: expected 1e-5), and every sabotage found.
"""

from __future__ import annotations

import math

import pytest
import torch

from posteriori.models.engines.verify import compared, compared_after

TOKENS = 320
UPDATES = 1000


def worlds(step: float, rounding: float, missing: float, seed: int):
    """Log-probs of tokens before and after updates, by a model and by an engine that has all but
    `missing` of each update."""
    random = torch.Generator().manual_seed(seed)

    def noise(size: float) -> torch.Tensor:
        return size * torch.randn(UPDATES, TOKENS, generator=random, dtype=torch.float64)

    before_UM = -noise(1.0).abs()
    layers_UM = noise(step), noise(step)
    after_UM = before_UM + sum(layers_UM)
    kept = 1 - missing
    loaded_UM = before_UM + kept * layers_UM[0] + (1.0 if missing < 1 else 0.0) * layers_UM[1]
    q_before_UM, q_UM = before_UM + noise(rounding), loaded_UM + noise(rounding)
    return zip(q_UM, after_UM, q_before_UM, before_UM, strict=True)


@pytest.mark.parametrize(
    ("step", "rounding", "tolerance"),
    [(0.05, 1e-5, 0.005), (1e-6, 1e-5, 0.005), (0.02, 0.05, 0.25), (0.3, 0.05, 0.25), (0, 0, 0.01)],
)
def test_an_engine_with_the_new_weights_is_never_refused(step, rounding, tolerance):
    for world in worlds(step, rounding, 0.0, seed=1):
        assert compared_after(*world).fault(tolerance) is None


@pytest.mark.parametrize(
    ("step", "rounding", "tolerance"),
    [(0.05, 1e-5, 0.005), (1e-4, 1e-5, 0.005), (0.08, 0.05, 0.25), (0.3, 0.05, 0.25)],
)
@pytest.mark.parametrize("missing", [1.0, 0.9])
def test_stale_and_half_loaded_engines_are_found(step, rounding, tolerance, missing):
    """0.9 of one of two layers is missing: the slope is -0.45."""
    found = [compared_after(*w).fault(tolerance) for w in worlds(step, rounding, missing, seed=2)]
    assert all(found)


def test_steps_below_the_rounding_are_not_decisive():
    few = [compared_after(*w) for w in worlds(0.002, 0.05, 1.0, seed=3)]
    assert not any(each.decisive for each in few)
    assert all(each.decisive for each in (compared_after(*w) for w in worlds(0.1, 0.05, 1.0, 4)))


def test_sizes_alone_refuse_what_rounding_does_not_explain():
    pi_M = torch.linspace(-3, -1, 50, dtype=torch.float64)
    assert compared(pi_M + 0.004, pi_M).fault(0.005) is None
    assert "0.02 nats per token" in compared(pi_M + 0.02, pi_M).fault(0.005)
    assert compared(torch.full_like(pi_M, math.nan), pi_M).fault(0.005) is not None


def test_an_error_that_grows_by_an_update_is_refused():
    """Half of the layers are new, and their change is no part of the whole change."""
    random = torch.Generator().manual_seed(0)
    before_M, noise_M = torch.randn(2, 400, generator=random, dtype=torch.float64)
    pi_M = before_M + 1e-9 * noise_M
    found = compared_after(pi_M + 0.1 * noise_M, pi_M, before_M + 0.01 * noise_M, before_M)
    assert "grew from" in found.fault(0.25)
