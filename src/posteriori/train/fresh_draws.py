"""What draws that no update has used yet say of a run: of its rate, and of its policies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posteriori.core.protocols import TrainableLM
from posteriori.core.types import Draws
from posteriori.train.step_size.step_signal import signal_of

from .selection import Chosen, Selection, State
from .update import Updater


class FreshDraws:
    """Each step's draws, before the step's updates: an estimate without bias of how near the policy
    is that met them."""

    def __init__(
        self,
        policy: TrainableLM,
        start: TrainableLM | None,
        updater: Updater,
        selection: Selection,
        *,
        on_policy: bool,
    ) -> None:
        self.policy, self.start, self.updater = policy, start, updater
        self.selection, self.on_policy = selection, on_policy
        self.forward: bool | None = None
        """Whether KL(p*, pi) is judged, or KL(pi, p*): settled by the first draws."""

    def state_before(self, step: int) -> State | None:
        """A copy of the weights, where they may be handed back."""
        if not self.selection.begins(step):
            return None
        state = self.policy.trained_state()
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def learn(
        self, step: int, state: State | None, fresh: Draws, log_prob_N: Tensor
    ) -> dict[str, float]:
        """What the draws say of the rate, as figures of the step; and of the policy that met them,
        whose weights are `state`."""
        if bool(fresh.log_proposal_N.isnan().any()):
            return {}
        if self.forward is None:
            ruled_out = bool(fresh.log_evidence_N.isneginf().any())
            self.forward = ruled_out or not self.on_policy
        signal = signal_of(
            fresh, log_prob_N, forward=self.forward, log_start_N=self._log_start(fresh)
        )
        if signal is None:
            return {}
        self.selection.add(step, state, signal)
        return {"shrink": self.updater.learn_from(signal)} if self.updater.auto else {}

    def chosen(self) -> Chosen | None:
        """The policy to hand back in place of the last one, where an earlier one was nearer."""
        return self.selection.chosen()

    def _log_start(self, fresh: Draws) -> Tensor | None:
        """log-prob of the draws under the model that the policy started as, where that is not the
        prior: what its displacement is measured from."""
        if self.start is None:
            return None
        with torch.no_grad():
            return self.start.log_prob(fresh.completions).to(fresh.log_prior_N)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"selection": self.selection.state_dict(), "forward": self.forward}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of a checkpoint, which may hold more."""
        self.selection.load_state_dict(state["selection"])
        self.forward = state["forward"]
