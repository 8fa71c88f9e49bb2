"""The best policy so far, as a proposal: GDC's adaptive sampling distribution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posteriori.core.protocols import LanguageModel, TrainableLM
from posteriori.core.target import Target


class BestPolicy(torch.nn.Module):
    """q = the prior, until a policy is nearer to the target; then a frozen copy of that policy.

    KL(p*, q) - KL(p*, pi) = E_p*[log pi - log q], which `observe` estimates from draws of q with
    self-normalised weights (consistent), prompt by prompt, and averages over the prompts that had
    any weight. Every `switch_every` steps the sign decides, and the sums start again. pi counts as
    it was before each step's update, so these are draws that it had not learned from; what is
    copied is pi as it stands. A second set of the policy's weights is made at the first switch,
    and is part of a checkpoint from then on.

    Source: Khalifa et al. 2021, arXiv 2012.11635, algorithm 1.
    """

    gain_P: Tensor
    mass_P: Tensor
    steps: Tensor
    switches: Tensor

    def __init__(
        self, target: Target, new_policy: Callable[[], TrainableLM], switch_every: int
    ) -> None:
        super().__init__()
        self._target, self._new_policy, self._switch_every = target, new_policy, switch_every
        # In tuples, because a table is a Module and must not become part of this one.
        self._copy: tuple[TrainableLM, ...] = ()
        for name in ("gain_P", "mass_P"):
            none_P = torch.zeros(len(target.prompts), dtype=torch.float64)
            self.register_buffer(name, none_P)
        for name in ("steps", "switches"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))

    @property
    def lm(self) -> LanguageModel:
        """q as it stands."""
        return self._copy[0] if self._copy else self._target.prior

    def observe(self, policy: TrainableLM, at_N: Tensor, share_N: Tensor, gain_N: Tensor) -> int:
        """Count a step's draws from q in, and switch when it is time; how often it has switched.

        `at_N` is the place of each draw's prompt, `share_N` its weight p*/q up to a factor for each
        prompt, `gain_N` its log pi - log q.
        """
        gain_P = self.gain_P.to(at_N.device).index_add(0, at_N, share_N * gain_N)
        mass_P = self.mass_P.to(at_N.device).index_add(0, at_N, share_N)
        steps = self.steps + 1
        if int(steps) == self._switch_every:
            weighed_P = mass_P > 0
            if bool(weighed_P.any()) and float((gain_P / mass_P)[weighed_P].mean()) > 0:
                self._take(policy.trained_state())
                self.switches = self.switches + 1
            gain_P, mass_P, steps = (torch.zeros_like(each) for each in (gain_P, mass_P, steps))
        self.gain_P, self.mass_P, self.steps = gain_P, mass_P, steps
        return int(self.switches)

    def _take(self, state: dict[str, Tensor]) -> None:
        if not self._copy:
            self._copy = (self._new_policy(),)
        self._copy[0].load_trained_state(state)

    def get_extra_state(self) -> dict[str, Tensor]:
        """q's weights; none while q is the prior."""
        return dict(self._copy[0].trained_state()) if self._copy else {}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        if state:
            self._take(state)
        else:
            self._copy = ()
