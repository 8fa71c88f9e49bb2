"""Distributional policy gradient: importance-weighted imitation of the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from posteriori.core.protocols import LanguageModel, TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.objectives.base import Constants, Objective
from posteriori.objectives.offline import weight_over
from posteriori.objectives.running_z import RunningZ

from .best_policy import BestPolicy


class DPGConfig(Strict):
    """Settings of the objective "dpg".

    Args:
        proposal: what draws: "adaptive", the best policy so far, beginning with the prior;
            "policy", as it stands; "prior".
        switch_every: steps between decisions of "adaptive".
        baseline: b, at least 0; 1 makes both terms cancel at the target for every draw.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    proposal: Literal["adaptive", "policy", "prior"] = "adaptive"
    switch_every: int = Field(default=10, ge=1)
    baseline: float = Field(default=1.0, ge=0)


class DPG(Objective[DPGConfig]):
    """grad KL(p*, pi) = -E_q[(p~ / (Z q) - b pi/q) grad log pi],  y ~ q, for any number b.

    In nats. Hard evidence is fine: a draw that is ruled out has p~ = 0. b = 1 makes both terms
    cancel at the target for every draw, and the gradient's variance vanish with its mean; b = 0 is
    the original without a baseline. Ratios are never clipped.

    Z(c) is the mean of p~/q over the draws of all earlier steps (`RunningZ`). With the exact Z the
    expected gradient is that of KL(p*, pi); with Z-hat each prompt's is scaled by Z/Z-hat > 0,
    which moves no fixed point. Only a prompt's first draws with weight are divided by their own
    mean, and until there are any the prompt adds nothing. Replayed draws are in Z-hat already, a
    bias of O(1/draws so far).

    q is by `proposal`: "adaptive", the best policy so far, beginning with the prior: every
    `switch_every` steps the policy takes q's place if its estimated KL(p*, pi) is below KL(p*, q)
    (`BestPolicy`, which keeps a second set of the policy's weights); "policy", pi itself; "prior".

    Sources: GDC, Khalifa et al. 2021, arXiv 2012.11635, algorithm 1; Z prompt by prompt, Korbak et
    al. 2022, 2112.00791; the baseline, Korbak et al. 2022, 2206.00761, section 3.3.
    """

    name = "dpg"
    divergence = "KL(target, policy)"
    replays: ClassVar[bool] = True

    Settings = DPGConfig

    @property
    def on_policy(self) -> bool:
        return self.settings.proposal == "policy"

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        self._target = target
        # The policy of the step under way; in a tuple, because a table is a Module.
        self._policy: tuple[TrainableLM, ...] = ()
        self.running_z = RunningZ(target)
        self.best: BestPolicy | None = None
        if self.settings.proposal == "adaptive":
            self.best = BestPolicy(target, new_policy, self.settings.switch_every)

    def proposal(self, target: Target, policy: TrainableLM) -> LanguageModel:
        self._policy = (policy,)
        return self.best.lm if self.best is not None else super().proposal(target, policy)

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        log_z_N = self.running_z.before(draws)
        share_N = weight_over(draws.log_weight, log_z_N)
        ratio_N = (log_prob_N - draws.log_proposal_N).exp()
        known_N = ~log_z_N.isneginf()
        return {"weight_N": (share_N - self.settings.baseline * ratio_N).where(known_N, 0.0)}

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        return -constants["weight_N"] * token_log_prob_nL.sum(-1)

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        self.running_z.add(draws)
        figures = super().observe(draws, log_prob_N) | self.running_z.figures(draws)
        if self.best is None:
            return figures
        at_N = self._target.prompt_positions(draws.completions)
        share_N = weight_over(draws.log_weight, self.running_z.at(draws))
        gain_N = log_prob_N - draws.log_proposal_N
        switches = self.best.observe(self._policy[0], at_N, share_N, gain_N)
        return {**figures, "proposal_switches": switches}
