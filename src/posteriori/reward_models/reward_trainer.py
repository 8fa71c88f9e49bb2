"""The training loop of a reward model: batches, heads, early stopping, the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posteriori.core.journal.journal import fold
from posteriori.core.seeds import generator
from posteriori.core.settings.training import FitRewardConfig
from posteriori.errors import NonFiniteError

from .backbone import Backbone, Token
from .bradley_terry import bradley_terry_loss
from .calibration import agreement
from .labelled_pairs import LabelledPair, bucketed_batches, label_tensors

Record = dict[str, Any]


class TokenPairs:
    """Tokenised pairs with their labels and margins."""

    def __init__(self, backbone: Backbone, pairs: Sequence[LabelledPair]) -> None:
        self.pairs = pairs
        where = [pair.where for pair in pairs]
        self.chosen = self._tokens(backbone, [pair.chosen for pair in pairs], where)
        self.rejected = self._tokens(backbone, [pair.rejected for pair in pairs], where)
        self.label_N, self.margin_N = label_tensors(pairs)
        both = zip(self.chosen, self.rejected, strict=True)
        self.lengths = [max(len(one), len(other)) for one, other in both]

    def __len__(self) -> int:
        return len(self.pairs)

    def _tokens(
        self, backbone: Backbone, replies: Sequence[str], where: Sequence[str]
    ) -> list[Token]:
        texts = [
            backbone.text(pair.prompt, reply)
            for pair, reply in zip(self.pairs, replies, strict=True)
        ]
        return backbone.tokens(texts, where)

    def features(self, backbone: Backbone, batch_size: int) -> tuple[Tensor, Tensor]:
        """h of chosen and of rejected, float64 [N, D] each."""
        feature_ND = backbone.features([*self.chosen, *self.rejected], 2 * batch_size)
        chosen_ND, rejected_ND = feature_ND.split(len(self))
        return chosen_ND, rejected_ND


def bootstrap_weights(num_pairs: int, members: int, seed: int) -> Tensor:
    """How often each pair is in each member's resample, Poisson(1), float64 [N, K].

    The bootstrap's multinomial counts without their fixed sum (Oza and Russell 2001, online
    bagging). All ones for a single member.
    """
    ones_NK = torch.ones(num_pairs, members, dtype=torch.float64)
    if members == 1:
        return ones_NK
    return torch.poisson(ones_NK, generator=generator(seed, "bootstrap"))


def initial_heads(backbone: Backbone, members: int, seed: int) -> Tensor:
    """N(0, 1 / (D + 1)) for each of K heads, so that rewards start about as large as features."""
    shape = (members, backbone.hidden_size)
    drawn_KD = torch.randn(shape, generator=generator(seed, "heads"))
    return drawn_KD / math.sqrt(backbone.hidden_size + 1)


class RewardTrainer:
    """Trains the backbone and K heads on it; one forward pass serves all heads.

    The loss of a step is the mean over its pairs and the heads of weight x `bradley_terry_loss`.
    AdamW; the rate warms up and decays. Every `evaluate_every` steps the held-out loss (of the
    heads' mean) is measured; the weights where it was lowest are put back in the end, and training
    stops once it has not fallen `patience` times in a row. `on_best` sees each new best, and
    `on_resume` the records of what a journal has.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads_KD: Tensor,
        train: TokenPairs,
        held_out: TokenPairs,
        settings: FitRewardConfig,
        on_step: Callable[[Record], None],
        on_best: Callable[[Tensor], None],
        on_resume: Callable[[list[Record]], None] = lambda _: None,
    ) -> None:
        self.backbone, self.train_pairs, self.held_out = backbone, train, held_out
        self.settings, self.on_step, self.on_best = settings, on_step, on_best
        self.on_resume = on_resume
        self.heads_KD = nn.Parameter(heads_KD.to(backbone.device, copy=True))
        self.weight_NK = bootstrap_weights(len(train), len(heads_KD), settings.seed).float()
        self.per_epoch = math.ceil(len(train) / settings.batch_size)
        self.steps = settings.epochs * self.per_epoch
        self.evaluate_every = settings.evaluate_every or max(1, self.per_epoch // 4)
        self.history: list[Record] = []
        self.best = math.inf
        self._best_state: list[Tensor] = []
        self._since_best = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.heads_KD, *(p for p in self.backbone.parameters() if p.requires_grad)]

    def run(self) -> Tensor:
        """Train; returns the best heads [K, D], and leaves the backbone's best weights in place."""
        from transformers import get_scheduler

        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        warmup = math.ceil(settings.warmup * self.steps)
        kind = {"none": "constant_with_warmup"}.get(settings.decay, settings.decay)
        schedule: Any = get_scheduler(kind, optimizer, warmup, self.steps)
        batches = [
            (epoch, rows)
            for epoch in range(settings.epochs)
            for rows in bucketed_batches(
                self.train_pairs.lengths, settings.batch_size, settings.seed, epoch
            )
        ]

        def learn(step: int, batch: tuple[int, list[int]]) -> int:
            if self._since_best >= settings.patience:
                return step
            epoch, rows = batch
            record = {"step": step, "epoch": epoch, "learning_rate": schedule.get_last_lr()[0]}
            record["loss"] = self._update(optimizer, rows, step)
            schedule.step()
            step += 1
            if step % self.evaluate_every == 0 or step == self.steps:
                record |= self._evaluate()
            self.history.append(record)
            self.on_step(record)
            return step

        def pack(step: int) -> dict[str, Any]:
            return {
                "step": step,
                "parameters": [parameter.detach() for parameter in self.parameters],
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "history": self.history,
                "best": [self.best, self._best_state, self._since_best],
            }

        @torch.no_grad()
        def unpack(kept: dict[str, Any]) -> int:
            for parameter, then in zip(self.parameters, kept["parameters"], strict=True):
                parameter.copy_(then)
            optimizer.load_state_dict(kept["optimizer"])
            schedule.load_state_dict(kept["schedule"])
            self.history = kept["history"]
            self.best, self._best_state, self._since_best = kept["best"]
            self.on_resume(self.history)
            return kept["step"]

        fold(0, batches, learn, pack=pack, unpack=unpack)
        return self._restored()

    def _update(self, optimizer: torch.optim.Optimizer, rows: list[int], step: int) -> float:
        data = self.train_pairs
        tokens = [data.chosen[at] for at in rows] + [data.rejected[at] for at in rows]
        chosen_BD, rejected_BD = self.backbone(tokens).split(len(rows))
        delta_BK = (chosen_BD - rejected_BD) @ self.heads_KD.T
        to = delta_BK.device
        loss_BK = bradley_terry_loss(
            delta_BK,
            data.margin_N[rows].float()[:, None].to(to),
            data.label_N[rows].float()[:, None].to(to),
            self.settings.label_noise,
        )
        loss = (self.weight_NK[rows].to(to) * loss_BK).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if not (bool(loss.isfinite()) and bool(norm.isfinite())):
            raise self._not_finite(loss.item(), norm.item(), loss_BK, rows, step)
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def _evaluate(self) -> Record:
        data = self.held_out
        chosen_ND, rejected_ND = data.features(self.backbone, self.settings.batch_size)
        delta_N = (chosen_ND - rejected_ND) @ self.heads_KD.double().mean(0).cpu()
        noise = self.settings.label_noise
        loss = float(bradley_terry_loss(delta_N, data.margin_N, data.label_N, noise).mean())
        if loss < self.best:
            self.best, self._since_best = loss, 0
            self._best_state = [parameter.detach().clone() for parameter in self.parameters]
            self.on_best(self.heads_KD.detach().cpu())
        else:
            self._since_best += 1
        accuracy = float(agreement(delta_N, data.label_N).mean())
        return {"held_out_loss": loss, "held_out_accuracy": accuracy}

    @torch.no_grad()
    def _restored(self) -> Tensor:
        for parameter, best in zip(self.parameters, self._best_state, strict=True):
            parameter.copy_(best)
        return self.heads_KD.detach().cpu()

    def _not_finite(
        self, loss: float, norm: float, loss_BK: Tensor, rows: list[int], step: int
    ) -> NonFiniteError:
        wrong = (~loss_BK.detach().isfinite()).any(-1).nonzero()[:, 0].tolist()
        places = [self.train_pairs.pairs[rows[at]].where for at in wrong or range(len(rows))]
        return NonFiniteError(
            f"the loss is {loss} and its gradient's norm {norm}, made by {', '.join(places[:3])}",
            where=f"step {step}",
            hint="the update was not made; lower learning_rate, or look at these pairs",
        )
