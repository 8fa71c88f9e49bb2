"""Which of a step's draws are accepted: of the prior's by e / M, of the policy's by p~ / (M pi)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.errors import SamplingError
from posteriori.objectives.running_z import RunningZ

_ROUNDING = 1e-9
"""By so many nats log e may exceed a bound that was computed elsewhere."""


class Acceptance(torch.nn.Module):
    """P(y accepted) = min(1, w(y) / M(c)),  w = p~(y|c) / q(y|c) for draws y ~ q."""

    def log_bound(self, draws: Draws) -> Tensor:
        """log M at each draw, [N]."""
        raise NotImplementedError

    def observe(self, draws: Draws) -> dict[str, float]:  # noqa: ARG002
        """Called after a step with its draws, as they were drawn; returns figures."""
        return {}

    def forward(self, draws: Draws, uniform_N: Tensor) -> Draws:
        """The same draws, of weight 1 where u < w / M and 0 elsewhere."""
        accepted_N = uniform_N.log() < self.log_chance(draws)
        weight_N = torch.zeros_like(draws.log_weight).masked_fill(~accepted_N, -math.inf)
        return replace(draws, log_weight_N=weight_N)

    def expected(self, draws: Draws) -> Draws:
        """The same draws, each of the weight that it has in the mean over u: its chance."""
        return replace(draws, log_weight_N=self.log_chance(draws))

    def log_chance(self, draws: Draws) -> Tensor:
        """log min(1, w / M), and -inf where w is 0, even where M is 0 with it; [N]."""
        log_w_N = draws.log_weight
        log_share_N = (log_w_N - self.log_bound(draws)).clamp(max=0)
        return log_share_N.masked_fill(log_w_N.isneginf(), -math.inf)


class KnownBound(Acceptance):
    """M >= e, so what is accepted follows the target. A draw above it raises `SamplingError`."""

    def __init__(self, log_bound: float) -> None:
        super().__init__()
        self._log_bound = log_bound

    def log_bound(self, draws: Draws) -> Tensor:
        log_e_N = draws.log_evidence_N
        if bool((log_e_N > self._log_bound + _ROUNDING).any()):
            row = int(log_e_N.argmax())
            raise SamplingError(
                f"log e = {float(log_e_N[row]):.6g} of {draws.texts[row][:60]!r} is above its "
                f"bound of {self._log_bound:.6g}, so what is accepted does not follow the target",
                where="objective 'raft'",
                hint="set max_log_evidence to the largest log e there can be (the largest reward "
                "over beta), or leave it out for a running bound",
            )
        return torch.full_like(log_e_N, self._log_bound)


class RunningBound(Acceptance):
    """M(c) = the largest e that any draw of the prompt has had so far, this step's included."""

    top_P: Tensor

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        none_yet_P = torch.full((len(target.prompts),), -torch.inf, dtype=torch.float64)
        self.register_buffer("top_P", none_yet_P)

    def log_bound(self, draws: Draws) -> Tensor:
        return self._top_with(draws)[self._target.prompt_positions(draws.completions)]

    def observe(self, draws: Draws) -> dict[str, float]:
        self.top_P = self._top_with(draws)
        return {}

    def _top_with(self, draws: Draws) -> Tensor:
        at_N = self._target.prompt_positions(draws.completions)
        return self.top_P.to(at_N.device).scatter_reduce(0, at_N, draws.log_evidence_N, "amax")


class OverZ(Acceptance):
    """M(c) = a Z-hat(c), Z-hat from the draws of earlier steps (`RunningZ`), a = `headroom` > 1."""

    def __init__(self, target: Target, headroom: float) -> None:
        super().__init__()
        self._log_headroom = math.log(headroom)
        self.running_z = RunningZ(target)

    def log_bound(self, draws: Draws) -> Tensor:
        return self.running_z.before(draws) + self._log_headroom

    def observe(self, draws: Draws) -> dict[str, float]:
        self.running_z.add(draws)
        return self.running_z.log_z_figure()
