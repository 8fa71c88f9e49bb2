"""The gradient steps that are made from one step's draws."""

from __future__ import annotations

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config import FitSettings
from ..errors import ConfigError
from ..objectives.base import Constants, Objective, policy_log_prob
from ..protocols import TrainableLM
from ..types import Draws
from . import guards


class Update(NamedTuple):
    """One gradient step: its loss, log pi of each draw before it [N], the gradient's norm."""

    loss: float
    log_prob_N: Tensor
    grad_norm: float


class Updater:
    """AdamW on the policy and on the objective's own parameters, guarded.

    `under_way` is true from the first change of a weight until the loop has counted the step: what
    stops a run in between leaves half a step.
    """

    def __init__(self, policy: TrainableLM, objective: Objective, settings: FitSettings) -> None:
        self.policy, self.objective, self.settings = policy, objective, settings
        self.parameters = [p for p in policy.module.parameters() if p.requires_grad]
        groups = [{"params": self.parameters, "lr": settings.learning_rate}]
        groups += [{"weight_decay": 0.0, **group} for group in objective.parameter_groups()]
        self.full_rates = [group["lr"] for group in groups]
        self.accelerator = Accelerator(cpu=policy.device.type == "cpu")
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                f"fit runs in one process, and {self.accelerator.num_processes} were launched",
                hint="start it with plain python",
            )
        self.optimizer = self.accelerator.prepare(
            torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
        )
        self.under_way = False

    def __call__(
        self, draws: Draws, constants: Constants, learning_rate: float, step: int
    ) -> list[Update]:
        """`objective.epochs` updates; raises `NonFiniteError` before one that is not finite."""
        scale = learning_rate / self.settings.learning_rate
        for group, full_rate in zip(self.optimizer.param_groups, self.full_rates, strict=True):
            group["lr"] = scale * full_rate
        return [
            self._update(*_part(draws, constants, rows), step)
            for rows in self.objective.batches(draws)
        ]

    def _update(self, draws: Draws, constants: Constants, step: int) -> Update:
        loss, log_prob_N = self.backward(draws, constants)
        grad_norm = self._clip(self.settings.max_grad_norm).double()
        guards.check_gradient(grad_norm, self.policy, self.objective, draws, constants, step)
        self.under_way = True
        self.optimizer.step()
        return Update(loss, log_prob_N, float(grad_norm))

    def _clip(self, limit: float | None) -> Tensor:
        """The norm of all gradients, which are scaled down to `limit` where there is one."""
        if limit is not None:
            return torch.as_tensor(self.accelerator.clip_grad_norm_(self.parameters, limit))
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def backward(self, draws: Draws, constants: Constants) -> tuple[float, Tensor]:
        """Gradients of the mean loss over all draws, micro-batch by micro-batch; and log pi [N]."""
        self.optimizer.zero_grad()
        total = 0.0
        log_prob_N = torch.empty_like(draws.log_prior_N)
        num_losses = len(draws) // self.objective.rows_together
        for rows in self._micro_batches(draws):
            its_own = {name: values[rows] for name, values in constants.items()}
            completions = draws.completions.select(rows)
            read, token_log_prob_nL = policy_log_prob(
                self.objective, self.policy, completions, its_own
            )
            loss = self.objective.loss(read, its_own).sum() / num_losses
            self.accelerator.backward(loss)
            total += float(loss.detach())
            log_prob_N[rows] = token_log_prob_nL.sum(-1)
        return total, log_prob_N

    def _micro_batches(self, draws: Draws) -> list[Tensor]:
        together = self.objective.rows_together
        groups = self.policy.micro_batches(
            draws.completions, together, self.objective.reads_choices
        )
        size = self.settings.micro_batch_size
        if size is None:
            return groups
        return [part for g in groups for part in g.split(max(1, size // together) * together)]


def _part(draws: Draws, constants: Constants, rows: Tensor) -> tuple[Draws, Constants]:
    """The draws of one update; where it is made of all of them, they are not copied."""
    if len(rows) == len(draws) and bool((rows == torch.arange(len(draws))).all()):
        return draws, constants
    return draws.select(rows), {name: values[rows] for name, values in constants.items()}
