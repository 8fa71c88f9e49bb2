"""Contrastive twist learning: `fit_twist`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from posteriori.core.display.shown import counted
from posteriori.core.journal.journal import fold
from posteriori.core.numerics import ess
from posteriori.core.processes.together import on_one_process
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.out_of_memory import explained
from posteriori.core.seeds import derive, generator
from posteriori.core.settings.combined import combined
from posteriori.core.settings.keywords import FitTwistKeywords
from posteriori.core.settings.training import FitTwistConfig
from posteriori.core.target import Target
from posteriori.core.types import Cost
from posteriori.data.given_arguments import named_arguments
from posteriori.runs.target_fingerprint import digest
from posteriori.runs.target_journal import keeping

from .particles import stepping
from .populations import Plan, Populations
from .resampling import Choices
from .twist_head import TwistHead
from .twist_loss import Run, TwistBatches, loss_of, twist_batches_of


@dataclass(repr=False)
class TwistFit:
    """The twist, what each step said (loss and log Z-hat in nats, power of the evidence, share of
    effective particles), and the cost."""

    twist: TwistHead
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    cost: Cost = field(default_factory=Cost)

    def __repr__(self) -> str:
        last = self.history[-1].get("effective_share") if self.history else None
        share = "" if last is None else f", effective share {last:.3g}"
        return f"TwistFit({counted(len(self.history), 'step')}{share})"


@named_arguments
@explained("training the twist", "set a lower num_samples, max_new_tokens or memory_gib")
@on_one_process
def fit_twist(
    target: Target,
    *,
    proposal: LanguageModel | None = None,
    start: TwistHead | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
    journal: Path | str | None = None,
    resume: bool = False,
    config: FitTwistConfig | None = None,
    **settings: Unpack[FitTwistKeywords],
) -> TwistFit:
    """Train a `TwistHead` for `posteriori.sample(target, "smc", twist=fit.twist)`.

        gradient of the loss = sum_t E_{pi_t^psi}[grad log psi_t] - E_{p*}[grad log psi_t],
        pi_t^psi ~ prior psi_t

    It is zero at psi_t = E_prior[e | prefix], the best there is (Zhao et al. 2024, arXiv
    2404.17546, section 4). Each step runs SMC with the twist as it is, and both expectations are
    over the particles of the last `replay` runs, weighted for the twist of now. The parameters have
    a Gaussian prior of precision `ridge` around where they start: of few effective draws a twist
    learns little. Consistent in `num_samples`, biased at few; that biases no draw, it makes them
    dearer.

    Args:
        target: the target; its prior has hidden states (`CausalLM`, `TabularLM`).
        proposal: what SMC draws from; default: the prior.
        start: a twist to go on from.
        on_step: sees each step's record: loss and log Z-hat in nats, effective particles.
        journal: a folder that keeps what is finished until all is.
        resume: go on from the journal of a run that was stopped, and end with the same bits.
        config: the settings, as one `FitTwistConfig`.
        settings: or its fields, as keywords.

    Returns:
        A `TwistFit`: the twist, a record per step, the cost.

    Raises:
        ConfigError: for wrong settings.
        SamplingError: where in a step no particle of any prompt has any weight.

    Example:
        >>> fit = po.fit_twist(target, steps=2, num_samples=16, seed=0)
        >>> draws = po.sample(target, "smc", num_samples=16, twist=fit.twist, seed=0)
        >>> draws.guarantee
        'properly_weighted'
    """
    chosen = combined(FitTwistConfig, config, settings, "config", "fit_twist")
    head = start or new_head(target, chosen)

    def about() -> dict[str, Any]:
        return {
            "the work": "fit_twist",
            **{name: digest(value) for name, value in chosen.model_dump().items()},
            "start": digest(head),
            "proposal": digest(None if proposal is target.prior else proposal),
        }

    with keeping(target, journal, about, resume=resume):
        return _fit(target, proposal, head, chosen, on_step)


_State = tuple[dict[str, Tensor], list[dict[str, float]], Cost, list[Run]]
"""The head's parameters, the records, the cost, and the runs that are replayed."""


def _fit(
    target: Target,
    proposal: LanguageModel | None,
    head: TwistHead,
    chosen: FitTwistConfig,
    on_step: Callable[[dict[str, float]], None] | None,
) -> TwistFit:
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
    origin = [parameter.detach().clone() for parameter in head.parameters()]

    def learn(state: _State, step: int) -> _State:
        learned, history, cost, replayed = state
        head.load_state_dict(learned)
        choices = Choices(generator(chosen.seed, "fit_twist", step))
        populations = Populations(plan, target.prompts, parent_P, size_P, choices)
        draws = populations.run(trace=True)
        replayed = [*replayed, Run.of(populations)][-chosen.replay :]
        batches = twist_batches_of(replayed, chosen.least_share)
        losses: list[float] = []
        optimizer = torch.optim.LBFGS(
            head.parameters(), max_iter=chosen.updates, line_search_fn="strong_wolfe"
        )

        def closure(batches: TwistBatches = batches, losses: list[float] = losses) -> Tensor:
            loss = loss_of(batches, head, target.max_new_tokens)
            losses.append(loss.item())
            loss = loss + _penalty(head, origin) * chosen.ridge / batches.effective
            head.zero_grad()
            torch.autograd.backward(loss)
            return loss

        optimizer.step(closure)  # pyright: ignore - it hands on what the closure returns
        log_w_PK = draws.log_weight.view(len(size_P), -1)
        record = {
            "step": step,
            "loss": losses[0],
            "power": float(batches.power_P.mean()),
            "effective_share": float(ess(log_w_PK).mean()) / chosen.num_samples,
            "log_z": float(populations.log_z().mean()),
        }
        if on_step:
            on_step(record)
        learned = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        return learned, [*history, record], cost + draws.cost, replayed

    first = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    last, history, cost, _ = fold((first, [], Cost(), []), range(chosen.steps), learn)
    head.load_state_dict(last)
    return TwistFit(head, history, cost)


def _penalty(head: TwistHead, origin: list[Tensor]) -> Tensor:
    """|theta - theta_0|^2 / 2."""
    moved = zip(head.parameters(), origin, strict=True)
    return torch.stack([(now - before).square().sum() for now, before in moved]).sum() / 2


def new_head(target: Target, settings: FitTwistConfig) -> TwistHead:
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
