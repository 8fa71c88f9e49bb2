"""The gradient steps that are made from one step's draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn

from posteriori.core.completions import Completions
from posteriori.core.draw import lm_tokens
from posteriori.core.protocols import TrainableLM
from posteriori.core.run.out_of_memory import is_out_of_memory
from posteriori.core.settings.training import FitConfig
from posteriori.core.types import Draws, Finding
from posteriori.distributed import pace
from posteriori.distributed.exchange import gathered, sum_gradients
from posteriori.distributed.sharding import is_cut, whole
from posteriori.distributed.shares import shares
from posteriori.distributed.world import current
from posteriori.errors import ConfigError
from posteriori.objectives.base import Constants, Objective, policy_log_prob
from posteriori.train.step_size.auto_rate import AutoRate
from posteriori.train.step_size.first_step import calibrated
from posteriori.train.step_size.step_signal import Signal

from . import guards
from .ptx import PretrainingMix

_MEASURED_BY = 64
"""Draws by which the first step's change of the policy is measured."""


class Update(NamedTuple):
    """One gradient step: its loss, log pi of each draw before it [N], the gradient's norm, and what
    the record says of a pretraining mix."""

    loss: float
    log_prob_N: Tensor
    grad_norm: float
    of_mix: dict[str, float]


class Updater:
    """AdamW on the policy and on the objective's own parameters, guarded.

    `under_way` is true from the first change of a weight until the loop has counted the step: what
    stops a run in between leaves half a step.
    """

    def __init__(
        self,
        policy: TrainableLM,
        objective: Objective,
        settings: FitConfig,
        mix: PretrainingMix | None = None,
    ) -> None:
        self.policy, self.objective, self.settings = policy, objective, settings
        self.mix, self._of_mix = mix, dict[str, float]()
        self.parameters = [p for p in policy.module.parameters() if p.requires_grad]
        self.auto = AutoRate(settings.first_rate) if settings.learning_rate == "auto" else None
        self._fixed_rate = settings.first_rate if self.auto else float(settings.learning_rate)
        # What the displacement is measured from: the policy is made anew before it is resumed.
        self._origin = [p.detach().clone() for p in self.parameters] if self.auto else []
        groups = [{"params": self.parameters, "lr": self._fixed_rate}]
        groups += [{"weight_decay": 0.0, **group} for group in objective.parameter_groups()]
        self._own_rates = [group["lr"] for group in groups[1:]]
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
        self.under_way = False
        self.tokens_of_mix = 0
        """Of the last update's pretraining mix."""
        self.rows_that_fit: int | None = None
        """The largest micro-batch, where memory has run out with a larger one."""
        self.on_finding: Callable[[Finding], None] = lambda _: None
        self.accelerator: Accelerator | None = None
        self.optimizer: torch.optim.Optimizer = optimizer
        if any(map(is_cut, self.parameters)):
            # accelerate prepares a sharded model and its optimiser together, or neither.
            return
        # Said here, for accelerate takes both from the environment otherwise.
        try:
            self.accelerator = Accelerator(
                cpu=policy.device.type == "cpu",
                mixed_precision="no",
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            )
        except (ImportError, ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"accelerate does not start: {error}",
                where="fit",
                hint="unset what a launcher has left in the environment (ACCELERATE_*), or install "
                "what it asks for",
            ) from error
        self.optimizer = self.accelerator.prepare(optimizer)

    @property
    def full_rate(self) -> float:
        """The policy's learning rate before warm-up and decay."""
        return self.auto.rate if self.auto else self._fixed_rate

    def __call__(self, draws: Draws, constants: Constants, share: float, step: int) -> list[Update]:
        """One update for each of `objective.batches`, with that share of each full rate; raises
        `NonFiniteError` before one that is not finite."""
        return [
            self._update(*_part(draws, constants, rows), share, step)
            for rows in self.objective.batches(draws)
        ]

    def learn_from(self, signal: Signal) -> float:
        """Change the rate, and take back some of the policy's displacement where the draws say so;
        returns by what it was multiplied."""
        if self.auto is None:
            return 1.0
        self.auto.observe(signal)
        shrink = self.auto.shrink
        if shrink < 1.0:
            with torch.no_grad():
                for now, origin in zip(self.parameters, self._origin, strict=True):
                    now.copy_(origin + shrink * (now - origin))
        return shrink

    def _update(self, draws: Draws, constants: Constants, share: float, step: int) -> Update:
        rates = [self.full_rate, *self._own_rates]
        for group, full_rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = share * full_rate
        loss, log_prob_N = self.backward(draws, constants)
        grad_norm = self._clip(self.settings.max_grad_norm).double()
        guards.check_gradient(grad_norm, self.policy, self.objective, draws, constants, step)
        self.under_way = True
        if self.auto is not None and not self.auto.calibrated:
            self._first_step(self.auto, draws, log_prob_N, share)
        else:
            self.optimizer.step()
        return Update(loss, log_prob_N, float(grad_norm), self._of_mix)

    def _first_step(self, auto: AutoRate, draws: Draws, log_prob_N: Tensor, share: float) -> None:
        """A step whose size is found by what it changes, and the rate with it."""
        before = [p.detach().clone() for p in self.parameters]
        rows = torch.arange(min(len(draws), _MEASURED_BY))
        completions = draws.completions.select(rows)

        def change() -> float:
            with torch.no_grad():
                moved_n = self.policy.log_prob(completions) - log_prob_N[rows]
            return float(moved_n.square().mean() / 2)

        self.optimizer.step()
        factor = calibrated(self.parameters, before, change, self.objective.first_change * share**2)
        if factor is not None:
            auto.rate *= factor
            auto.calibrated = True

    def _clip(self, limit: float | None) -> Tensor:
        """The norm of all gradients, which are scaled down to `limit` where there is one."""
        if limit is None:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            return whole(nn.utils.get_total_norm(grads))
        if self.accelerator is None:
            return whole(nn.utils.clip_grad_norm_(self.parameters, limit))
        return torch.as_tensor(self.accelerator.clip_grad_norm_(self.parameters, limit))

    def _back(self, loss: Tensor) -> None:
        pace.backward(loss, self.accelerator.backward if self.accelerator else Tensor.backward)

    def backward(self, draws: Draws, constants: Constants) -> tuple[float, Tensor]:
        """Gradients of the mean loss over all draws, micro-batch by micro-batch; and log pi [N].

        Where memory runs out, it begins again with micro-batches of half the size, which leave the
        gradient as it is: it is a sum over draws. The size is kept for the steps to come.
        """
        while True:
            by_process, world = self._by_process(draws), current()
            mine = by_process[0 if world is None else world.rank]
            try:
                return self._backward(draws, constants, mine)
            except (MemoryError, RuntimeError) as error:
                groups = [group for each in by_process for group in each]
                if not (is_out_of_memory(error) and self._halve(groups)):
                    raise
            # Outside of the handler, whose exception holds what was computed so far.
            self.optimizer.zero_grad()
            if self.policy.device.type == "cuda":
                torch.cuda.empty_cache()

    def _backward(
        self, draws: Draws, constants: Constants, groups: list[Tensor]
    ) -> tuple[float, Tensor]:
        """The same from these micro-batches: with several processes each makes the gradient of its
        own, and then all have the sum."""
        self.optimizer.zero_grad()
        parts = gathered(lambda: self._of_groups(draws, constants, groups))
        self._add_mix()
        sum_gradients([p for each in self.optimizer.param_groups for p in each["params"]])
        log_prob_N = torch.empty_like(draws.log_prior_N)
        for _, rows, log_prob_n in parts:
            log_prob_N[rows] = log_prob_n.to(log_prob_N.device)
        return sum(loss for loss, _, _ in parts), log_prob_N

    def _of_groups(
        self, draws: Draws, constants: Constants, groups: list[Tensor]
    ) -> tuple[float, Tensor, Tensor]:
        """Their loss, their rows, and log pi of each; the gradients are where they belong."""
        total, found = 0.0, []
        num_losses = len(draws) // self.objective.rows_together
        for rows in groups:
            its_own = {name: values[rows] for name, values in constants.items()}
            completions = draws.completions.select(rows)
            read, token_log_prob_nL = policy_log_prob(
                self.objective, self.policy, completions, its_own
            )
            loss = self.objective.loss(read, its_own).sum() / num_losses
            self._back(loss)
            total += float(loss.detach())
            found.append(token_log_prob_nL.sum(-1).to(draws.log_prior_N.dtype))
        if not groups:
            return 0.0, torch.empty(0, dtype=torch.long), draws.log_prior_N.new_empty(0)
        return total, torch.cat(groups), torch.cat(found)

    def _add_mix(self) -> None:
        """The gradient of the pretraining mix's term, beside the objective's: with several
        processes each adds that of its share of the rows."""
        mix, world = self.mix, current()
        if mix is None:
            return
        completions = mix.next()
        mine = torch.arange(len(completions))
        if world is not None:
            each = shares(len(completions), world.size, completions.lengths_N.tolist())[world.rank]
            mine = torch.arange(each.start, each.stop)
        own = completions.select(mine)

        def added() -> tuple[float, int]:
            if not len(mine):
                return 0.0, 0
            total = 0.0
            for rows in self._limited(self.policy.micro_batches(own, 1), 1):
                log_prob_n = self.policy.token_log_prob(own.select(rows)).sum(-1)
                loss = -log_prob_n.sum() / len(completions)
                self._back(mix.weight * loss)
                total += float(loss.detach())
            return total, lm_tokens(own)

        found = gathered(added)
        self._of_mix = {"ptx_loss": sum(loss for loss, _ in found)}
        self.tokens_of_mix = sum(tokens for _, tokens in found)

    def _halve(self, groups: list[Tensor]) -> bool:
        """Allow half of the largest micro-batch at most; false where it cannot be split."""
        together = self.objective.rows_together
        largest = max(len(rows) for rows in groups)
        if largest <= together:
            return False
        first = self.rows_that_fit is None
        self.rows_that_fit = max(1, largest // together // 2) * together
        if first:
            self.on_finding(
                Finding(
                    "warn",
                    "little_memory",
                    f"Memory ran out with {largest} completions in a micro-batch; the run goes on "
                    f"with at most {self.rows_that_fit}, and with fewer if it must. The gradient "
                    "is the same.",
                    f"Set micro_batch_size = {self.rows_that_fit} to have this from the start.",
                )
            )
        return True

    def _by_process(self, draws: Draws) -> list[list[Tensor]]:
        """The micro-batches of each process: rows of about as many tokens. All processes know all
        of them, so that they agree on their sizes."""
        world = current()
        if world is None:
            return [self._micro_batches(draws.completions)]
        together = self.objective.rows_together
        tokens_U = draws.completions.lengths_N.view(-1, together).sum(-1) + together
        found = []
        for share in shares(len(tokens_U), world.size, tokens_U.tolist()):
            rows = torch.arange(share.start * together, share.stop * together)
            part = draws.completions.select(rows)
            groups = self._micro_batches(part) if len(rows) else []
            found.append([rows[group] for group in groups])
        return found

    def _micro_batches(self, completions: Completions) -> list[Tensor]:
        together = self.objective.rows_together
        groups = self.policy.micro_batches(completions, together, self.objective.reads_choices)
        return self._limited(groups, together)

    def _limited(self, groups: list[Tensor], together: int) -> list[Tensor]:
        """The groups, none larger than the user or memory allows."""
        limits = [self.settings.micro_batch_size, self.rows_that_fit]
        sizes = [max(1, size // together) * together for size in limits if size is not None]
        return [part for g in groups for part in g.split(min(sizes))] if sizes else groups


def _part(draws: Draws, constants: Constants, rows: Tensor) -> tuple[Draws, Constants]:
    """The draws of one update; where it is made of all of them, they are not copied."""
    if len(rows) == len(draws) and bool((rows == torch.arange(len(draws))).all()):
        return draws, constants
    return draws.select(rows), {name: values[rows] for name, values in constants.items()}
