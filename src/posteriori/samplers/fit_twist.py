"""Contrastive twist learning: `fit_twist`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..config import TwistSettings, parse
from ..numerics import ess
from ..protocols import LanguageModel
from ..seeds import derive, generator
from ..target import Target
from ..types import Cost
from .particles import stepping
from .populations import Plan, Populations
from .resampling import Choices
from .twist_head import TwistHead
from .twist_lessons import Run, lessons_of, loss_of


@dataclass
class TwistFit:
    """The twist, what each step said (loss and log Z-hat in nats, power of the evidence, share of
    effective particles), and the cost."""

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
    `steps` runs SMC with the twist as it is, `num_samples` particles a prompt, and both
    expectations are over the particles of the last `replay` runs at each t, which weigh what the
    twist of now would give them: all runs together weigh properly, whatever twist steered them.
    Completions that ended before t take part with their evidence, which ties psi to its scale.
    While fewer than `least_share` of those particles are effective, it learns from prior x e^power
    with the largest power at which so many are. `updates` a step by Adam, at `learning_rate`
    falling linearly; `width` and `rank` are those of `TwistHead`, `ess_threshold` and `guidance`
    those of the runs.

    `start`: a twist to go on from. The loss is the cross-entropy in nats a token between the two
    weightings. Consistent in `num_samples`, biased at few; that biases no draw, it makes them
    dearer. Raises `ConfigError` for wrong settings and `SamplingError` where in a step no particle
    of any prompt has any weight.
    Source: Zhao et al. 2024 (arXiv 2404.17546, section 4).
    """
    chosen = parse(TwistSettings, settings, where="fit_twist")
    head = start or new_head(target, chosen)
    plan = Plan(
        target,
        proposal or target.prior,
        head,
        "systematic",
        chosen.ess_threshold,
        chosen.guidance,
    )
    device = next(head.parameters()).device
    parent_P = torch.arange(len(target.prompts), device=device)
    size_P = torch.full_like(parent_P, chosen.num_samples)
    optimizer = torch.optim.Adam(head.parameters(), chosen.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, chosen.steps)
    fit = TwistFit(head)
    replayed: deque[Run] = deque(maxlen=chosen.replay)
    for step in range(chosen.steps):
        choices = Choices(generator(chosen.seed, "fit_twist", step))
        populations = Populations(plan, target.prompts, parent_P, size_P, choices)
        draws = populations.run(trace=True)
        replayed.append(Run.of(populations))
        lessons = lessons_of(replayed, chosen.least_share)
        losses = []
        for _ in range(chosen.updates):
            loss = loss_of(lessons, head, target.max_new_tokens)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        log_w_PK = draws.log_weight.view(len(size_P), -1)
        record = {
            "step": step,
            "loss": losses[0],
            "power": float(lessons[0].power_P.mean()),
            "effective_share": float(ess(log_w_PK).mean()) / chosen.num_samples,
            "log_z": float(populations.log_z().mean()),
        }
        fit.history.append(record)
        fit.cost += draws.cost
        if on_step:
            on_step(record)
    return fit


def new_head(target: Target, settings: TwistSettings) -> TwistHead:
    """As wide as the prior's hidden states and tokens are."""
    row = torch.zeros(1, dtype=torch.long)
    with stepping(target.prior).stepping(
        target.prompts[:1], row, target.max_new_tokens, True
    ) as rows:
        hidden_RD, feature_VE = rows.hidden_RD, rows.token_features_VD
    head = TwistHead(
        hidden_RD.shape[1],
        feature_VE.shape[1],
        settings.width,
        settings.rank,
        derive(settings.seed, "twist"),
    )
    return head.to(hidden_RD.device)
