"""The loss of a twist, from runs of SMC: at each t the particles' weights under both
distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.core.journal.plain_data import storable
from posteriori.core.numerics import ess
from posteriori.errors import SamplingError

from .populations import Populations, StepTrace
from .twist_head import TwistHead

_HALVINGS = 30


@storable
@dataclass
class Run:
    """The record of one run of SMC: its trace, the features of the tokens, and the final weights
    and evidence [P, K]. The weights have Z-hat in them, so those of several runs add up."""

    step_traces: list[StepTrace]
    feature_LE: list[Tensor]
    log_w_PK: Tensor
    log_e_PK: Tensor

    @classmethod
    def of(cls, populations: Populations) -> Run:
        """Raises `SamplingError` where nothing has any weight."""
        log_w_PK = populations.p.log_w_N.view(-1, populations.width)
        if bool(log_w_PK.isneginf().all()):
            raise SamplingError(
                "no particle of any prompt has any weight, so there is nothing to learn from",
                hint="raise num_samples, or propose from a policy that is nearer to the target",
            )
        features_VE = populations.token_features_VD
        assert features_VE is not None
        return cls(
            populations.step_traces,
            [features_VE[step.token_L] for step in populations.step_traces],
            log_w_PK + populations.log_z_G[:, None],
            populations.p.log_evidence_N.view_as(log_w_PK),
        )

    def tempered(self, power_P: Tensor) -> Tensor:
        """Final weights [P, K] for prior x e^power."""
        less_PK = (1 - power_P[:, None]) * self.log_e_PK
        return (self.log_w_PK - less_PK).where(self.log_w_PK > -torch.inf, -torch.inf)


@dataclass
class TwistBatch:
    """A run reweighted to prior x e^power: the final weight of each particle's descendants, log [P,
    K], step by step."""

    run: Run
    power_P: Tensor
    log_share_PK: list[Tensor]
    log_w_PK: Tensor

    @classmethod
    def of(cls, run: Run, power_P: Tensor) -> TwistBatch:
        """The final weights, handed back from descendants to ancestors."""
        log_w_PK = run.tempered(power_P)
        top_P1 = log_w_PK.amax(-1, keepdim=True)
        top_P1 = top_P1.where(top_P1 > -torch.inf, 0.0)
        share_N = (log_w_PK - top_P1).exp().flatten()
        shares: list[Tensor] = []
        for step in reversed(run.step_traces):
            share_N = torch.zeros_like(share_N).index_add(0, step.ancestor_N, share_N)
            shares.append(share_N.view_as(log_w_PK).log() + top_P1)
        return cls(run, power_P, shares[::-1], log_w_PK)

    def weightings(self, t: int, head: TwistHead, left: float) -> tuple[Tensor, Tensor, Tensor]:
        """At t, log [P, K] each: the share; base x psi_t; and the same with the evidence of what
        ends at t in place of its psi_t. All the same once everything has ended."""
        if t >= len(self.run.step_traces):
            return self.log_w_PK, self.log_w_PK, self.log_w_PK
        step, (prompts, width) = self.run.step_traces[t], self.log_w_PK.shape
        power_N = self.power_P.repeat_interleave(width)
        log_base_N = step.log_base_N - (1 - power_N) * step.log_evidence_N
        log_base_N = log_base_N.where(step.log_base_N > -torch.inf, -torch.inf)
        log_psi_L = head(step.hidden_LD, self.run.feature_LE[t], left)
        log_e_L = power_N[step.at_L] * step.log_e_L
        known_L = log_e_L.where(step.ends_L, log_psi_L)

        def times(log_psi_L: Tensor) -> Tensor:
            log_psi_N = torch.zeros_like(log_base_N).index_put((step.at_L,), log_psi_L)
            return (log_base_N + log_psi_N).view(prompts, width)

        return self.log_share_PK[t], times(log_psi_L), times(known_L)


@dataclass
class TwistBatches:
    """All runs in the light of one target a prompt; `effective` particles and tokens speak of it
    (Kish's effective number, summed over prompts, times the tokens that a completion may have)."""

    each: list[TwistBatch]
    power_P: Tensor
    effective: float


def twist_batches_of(runs: Sequence[Run], least_share: float) -> TwistBatches:
    """All runs in the light of prior x e^power, with the largest power <= 1 for each prompt at
    which at least that share of its particles is effective."""
    num_prompts, width = runs[0].log_w_PK.shape
    low_P = torch.zeros(num_prompts, dtype=torch.float64, device=runs[0].log_w_PK.device)
    high_P = torch.ones_like(low_P)
    least = least_share * width * len(runs)
    power_P = high_P
    for _ in range(_HALVINGS):
        enough_P = ess(_together(runs, power_P)) >= least
        if bool(enough_P.all()) and bool((power_P == high_P).all()):
            break
        low_P, high_P = power_P.where(enough_P, low_P), high_P.where(enough_P, power_P)
        power_P = (low_P + high_P) / 2
    times = max(len(run.step_traces) for run in runs)
    effective = float(ess(_together(runs, power_P)).sum()) * times
    return TwistBatches([TwistBatch.of(run, power_P) for run in runs], power_P, effective)


def _together(runs: Sequence[Run], power_P: Tensor) -> Tensor:
    return torch.cat([run.tempered(power_P) for run in runs], dim=1)


def loss_of(batches: TwistBatches, head: TwistHead, length: int) -> Tensor:
    """-sum_n W_n log softmax(log base + log psi_t)_n over the particles n of all runs together,
    mean over prompts that have any weight and over t; W their shares, normalised.

    Once with psi_t of all that draw a token, so that it knows of ends too, and once with the
    evidence of what ends: that ties psi_t of all others to its scale.
    """
    losses: list[Tensor] = []
    for t in range(max(len(batch.run.step_traces) for batch in batches.each)):
        left = (length - t - 1) / length
        found = [batch.weightings(t, head, left) for batch in batches.each]
        log_share_PM, *log_twisted_PM = (
            torch.cat(each, dim=1) for each in zip(*found, strict=True)
        )
        losses += [_cross_entropy(log_share_PM, log_v_PM) for log_v_PM in log_twisted_PM]
    return torch.stack(losses).mean()


def _cross_entropy(log_share_PM: Tensor, log_v_PM: Tensor) -> Tensor:
    useful_P = ~log_share_PM.isneginf().all(-1)
    log_v_PM = log_v_PM[useful_P].log_softmax(-1)
    share_PM = log_share_PM[useful_P].softmax(-1)
    return -(share_PM * log_v_PM.where(share_PM > 0, 0.0)).sum(-1).mean()
