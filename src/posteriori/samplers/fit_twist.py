"""Contrastive twist learning: `fit_twist`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import TwistSettings, parse
from ..errors import SamplingError
from ..numerics import ess
from ..protocols import LanguageModel
from ..seeds import derive, generator
from ..target import Target
from ..types import Cost
from .particles import stepping
from .populations import Moment, Plan, Populations
from .resampling import Choices
from .twist_head import TwistHead


@dataclass
class TwistFit:
    """The twist, what each step said (loss in nats, share of effective particles), and the cost."""

    twist: TwistHead
    history: list[dict[str, float]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)


def fit_twist(
    target: Target,
    *,
    proposal: LanguageModel | None = None,
    start: TwistHead | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
    **settings: int | float,
) -> TwistFit:
    """Train a `TwistHead` for `posteriori.sample(target, "smc", twist=fit.twist)`.

        gradient of the loss = sum_t E_{pi_t^psi}[grad log psi_t] - E_{p*}[grad log psi_t]:

    log psi_t of prefixes rises under the posterior and falls under the twisted model,
    pi_t^psi ~ prior psi_t; it is zero at psi_t = E_prior[e | prefix], the best there is. Each of
    `steps` runs SMC with the twist as it is, `num_samples` particles a prompt. Both expectations
    are over its particles at each t: weighted as they were then, for the twisted model, and by the
    final weights of their descendants, for the posterior. Ended particles take part with their
    evidence, which ties psi to its scale. After the first of `updates` the former weights follow
    the twist. Adam, at `learning_rate` falling linearly.

    `start`: a twist to go on from. The loss is the cross-entropy in nats a token between the two
    weightings. Consistent in `num_samples`, biased at few; that biases no draw, it makes them
    dearer. Raises `ConfigError` for wrong settings and `SamplingError` where in a step no particle
    of any prompt has any weight.
    Source: Zhao et al. 2024 (arXiv 2404.17546, section 4).
    """
    chosen = parse(TwistSettings, settings, where="fit_twist")
    head = start or new_head(target, chosen.width, chosen.seed)
    plan = Plan(target, proposal or target.prior, head, "systematic", chosen.ess_threshold)
    device = next(head.parameters()).device
    parent_P = torch.arange(len(target.prompts), device=device)
    size_P = torch.full_like(parent_P, chosen.num_samples)
    optimizer = torch.optim.Adam(head.parameters(), chosen.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, chosen.steps)
    fit = TwistFit(head)
    for step in range(chosen.steps):
        choices = Choices(generator(chosen.seed, "fit_twist", step))
        populations = Populations(plan, target.prompts, parent_P, size_P, choices)
        draws = populations.run(trace=True)
        log_w_PK = draws.log_weight.view(len(size_P), -1)
        lessons = _lessons(populations.moments, log_w_PK, target.max_new_tokens)
        losses = []
        for _ in range(chosen.updates):
            loss = torch.stack([lesson.loss(head) for lesson in lessons]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        share = float(ess(log_w_PK).mean()) / chosen.num_samples
        fit.history.append({"step": step, "loss": losses[0], "effective_share": share})
        fit.cost += draws.cost
        if on_step:
            on_step(fit.history[-1])
    return fit


@dataclass
class Lesson:
    """One t: hidden states of those that go on, and both weightings of all particles [P, K]."""

    hidden_LD: Tensor
    at_L: Tensor
    left: float
    share_PK: Tensor
    log_base_PK: Tensor

    def loss(self, head: TwistHead) -> Tensor:
        """-sum_n W_n log softmax(log base + log psi)_n, mean over prompts that have any weight.

        W: what the posterior gives to descendants of particle n. Base: the particle's weight
        without its twist; what has ended keeps its evidence there.
        """
        log_psi_N = self.log_base_PK.new_zeros(self.log_base_PK.numel())
        log_psi_N = log_psi_N.index_put((self.at_L,), head(self.hidden_LD, self.left))
        logits_PK = self.log_base_PK + log_psi_N.view_as(self.log_base_PK)
        useful_P = self.share_PK.sum(-1) > 0
        log_v_PK = logits_PK[useful_P].log_softmax(-1)
        share_PK = self.share_PK[useful_P]
        return -(share_PK * log_v_PK.where(share_PK > 0, 0.0)).sum(-1).mean()


def _lessons(moments: list[Moment], log_w_PK: Tensor, length: int) -> list[Lesson]:
    """The final weights, handed back from descendants to ancestors, moment by moment."""
    useful_P1 = ~log_w_PK.isneginf().all(-1, keepdim=True)
    if not bool(useful_P1.any()):
        raise SamplingError(
            "no particle of any prompt has any weight, so there is nothing to learn from",
            hint="raise num_samples, or propose from a policy that is nearer to the target",
        )
    share_N = log_w_PK.softmax(-1).where(useful_P1, 0.0).flatten()
    lessons = []
    for t, moment in reversed(list(enumerate(moments, start=1))):
        share_N = torch.zeros_like(share_N).index_add(0, moment.ancestor_N, share_N)
        # Weight 0 stays 0, and the twist of what has ended is its evidence: part of its weight.
        log_base_N = moment.log_w_N.clone()
        log_base_N[moment.at_L] -= moment.log_psi_N[moment.at_L]
        lessons.append(
            Lesson(
                moment.hidden_LD,
                moment.at_L,
                (length - t) / length,
                share_N.view_as(log_w_PK),
                log_base_N.view_as(log_w_PK),
            )
        )
    return lessons


def new_head(target: Target, width: int, seed: int) -> TwistHead:
    """As wide as the prior's hidden states are."""
    row = torch.zeros(1, dtype=torch.long)
    with stepping(target.prior).stepping(
        target.prompts[:1], row, target.max_new_tokens, True
    ) as rows:
        hidden_RD = rows.hidden_RD
    return TwistHead(hidden_RD.shape[1], width, derive(seed, "twist")).to(hidden_RD.device)
