"""The plugin does what it says: posteriori's own checks, one call each, and they catch what is
wrong."""

from __future__ import annotations

from dataclasses import replace

import torch
from posteriori_example.brevity import Brevity
from posteriori_example.clipped_rloo import ClippedRLOO
from posteriori_example.defensive import Defensive

from posteriori import testing
from posteriori.core.protocols import Scores
from posteriori.testing.divergences import kl_to_target


def unclipped() -> ClippedRLOO:
    return ClippedRLOO(most=1e6)


class OwnDrawInTheBaseline(ClippedRLOO):
    def weigh(self, draws, log_prob_N):
        rho_N = draws.log_prior_N + draws.log_evidence_N - log_prob_N
        return {"advantage_N": rho_N - rho_N.mean()}


def test_the_objective():
    testing.check_gradient(unclipped, kl_to_target)
    testing.check_fit(lambda: ClippedRLOO(most=5.0), within=0.05, steps=100)
    testing.check_mutants(
        lambda objective: testing.check_gradient(objective, kl_to_target), [OwnDrawInTheBaseline]
    )


class Undefended(Defensive):
    """Draws of the mixture, with the weights of the proposal."""

    def run(self, job):
        draws = super().run(job)
        log_q_N = job.proposal.log_prob(draws.completions).double().detach()
        return replace(draws, log_proposal_N=log_q_N, log_z=None)


def test_the_sampler():
    testing.check_sampler(Defensive(share=0.3))
    testing.check_mutants(testing.check_sampler, [Undefended(share=0.3)])


class PerBatch(Brevity):
    def score(self, completions, columns):
        scores = super().score(completions, columns)
        return Scores(scores.log_evidence - scores.log_evidence.max(), scores.reward)


def test_the_evidence():
    scores = testing.check_evidence(Brevity(nats_per_token=0.5, free=1))
    assert torch.equal(scores.log_evidence, -0.5 * (scores.reward - 1))
    testing.check_mutants(testing.check_evidence, [PerBatch(nats_per_token=0.5)])
