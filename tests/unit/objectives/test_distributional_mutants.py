"""Wrong variants of DPG and f-DPG, which the exact gradients must catch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from objective_cases import (
    jensen_shannon,
    kl_from_target,
    total_variation,
)
from test_objectives_distributional import CAUGHT, ready

from posteriori.objectives.distributional.dpg import DPG
from posteriori.objectives.distributional.fdpg import FDPG
from posteriori.objectives.running_z import RunningZ
from posteriori.testing.worlds import World


class WithoutRatio(DPG):
    """The baseline is 1 and not pi/q."""

    def weigh(self, draws, log_prob_N):
        return super().weigh(draws, draws.log_proposal_N)


class WeighedByThePolicy(DPG):
    """p~/pi for draws that pi did not make."""

    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_proposal_N=log_prob_N), log_prob_N)


class WithTheProposalInT(FDPG):
    def advantage(self, draws, log_prob_N):
        return super().advantage(draws, draws.log_proposal_N)


class FDPGWithoutRatio(FDPG):
    def weigh(self, draws, log_prob_N):
        return {"weight_N": self.advantage(draws, log_prob_N)}


ELSEWHERE = [
    (WithoutRatio, {}, kl_from_target),
    (WeighedByThePolicy, {}, kl_from_target),
    (WithTheProposalInT, {"divergence": "js"}, jensen_shannon),
    (FDPGWithoutRatio, {"divergence": "js"}, jensen_shannon),
    (FDPGWithoutRatio, {"divergence": "tv"}, total_variation),
    (FDPGWithoutRatio, {"divergence": "forward_kl"}, kl_from_target),
]


@pytest.mark.parametrize(("mutant", "settings", "divergence"), ELSEWHERE)
def test_wrong_ratios_are_caught(mutant, settings, divergence):
    world = World(("x",), 2, elsewhere=True)
    wrong = world.expected_gradient(ready(mutant(**settings), world))
    assert float((wrong - world.gradient_of(divergence)).abs().max()) > CAUGHT


class WithItsOwnDrawsInZ(DPG):
    def weigh(self, draws, log_prob_N):
        self.running_z = RunningZ(self._target)
        return super().weigh(draws, log_prob_N)


class WithHalfOfBeta(DPG):
    def weigh(self, draws, log_prob_N):
        return super().weigh(replace(draws, log_evidence_N=2 * draws.log_evidence_N), log_prob_N)


class WithItsOwnDrawInTheBaseline(FDPG):
    def advantage(self, draws, log_prob_N):
        return super().advantage(draws, log_prob_N) / len(draws) * (len(draws) - 1)


class UpsideDown(FDPG):
    """p*/pi for pi/p*."""

    def __init__(self, **settings):
        super().__init__(**settings)
        slope = self._kind.slope
        self._kind = self._kind._replace(slope=lambda log_t: slope(-log_t))


class WithoutZ(FDPG):
    def advantage(self, draws, log_prob_N):
        return super().advantage(draws, log_prob_N - self.running_z.before(draws))


ON_POLICY = [
    (WithItsOwnDrawsInZ, {}, kl_from_target),
    (WithHalfOfBeta, {}, kl_from_target),
    (WithItsOwnDrawInTheBaseline, {"divergence": "js"}, jensen_shannon),
    (UpsideDown, {"divergence": "js"}, jensen_shannon),
    (WithoutZ, {"divergence": "js"}, jensen_shannon),
    (WithoutZ, {"divergence": "forward_kl"}, kl_from_target),
]


@pytest.mark.parametrize(("mutant", "settings", "divergence"), ON_POLICY)
def test_wrong_variants_are_caught(mutant, settings, divergence):
    world = World(("x",), 2)
    wrong = world.expected_gradient(ready(mutant(**settings), world))
    assert float((wrong - world.gradient_of(divergence)).abs().max()) > CAUGHT
