"""A pretraining mix: demonstrations whose likelihood is a term beside any objective's loss."""

from __future__ import annotations

from typing import Any

import torch

from posteriori.core.completions import Completions
from posteriori.core.protocols import LanguageModel
from posteriori.core.settings.training import PtxSettings
from posteriori.data.demonstrations import read_demonstrations
from posteriori.objectives.imitation.sft import tokenised
from posteriori.objectives.taken_rows import TakenRows

from .demonstrated import demonstrated_target


class PretrainingMix(torch.nn.Module):
    """weight x E_data[-log pi(y|c)], of `rows_per_step` rows per step: PPO-ptx's term.

    With an objective that descends KL(pi, p*) the sum is KL(pi, p*) + weight KL(data, pi), up to
    the data's entropy: its minimum lies between target and data, at pi (log pi/p* + m) = weight x
    data with one number m per prompt that both have; prompts of the data alone are held to the
    data. (Ouyang et al. 2022, arXiv 2203.02155, equation 2; there gamma weighs tokens, here both
    terms are nats per completion.)
    """

    def __init__(self, settings: PtxSettings, prior: LanguageModel, seed: int) -> None:
        super().__init__()
        rows = read_demonstrations(settings.data, completion_only=settings.completion_only)
        self.weight, self.rows_per_step = settings.weight, settings.rows_per_step
        target = demonstrated_target(prior, rows)
        data = tokenised(rows, target, seed)
        self.rows = TakenRows(data, "rows of ptx", with_prior=False)
        self._target = target

    def next(self) -> Completions:
        """The rows of the step that comes."""
        return self.rows.next(self._target, self.rows_per_step)[0].completions

    def taken(self) -> None:
        """The step with these rows is finished."""
        self.rows.observe(self.rows.next(self._target, self.rows_per_step)[0])


def mix_of(given: PtxSettings | None, prior: Any, seed: int) -> PretrainingMix | None:
    return None if given is None else PretrainingMix(given, prior, seed)
