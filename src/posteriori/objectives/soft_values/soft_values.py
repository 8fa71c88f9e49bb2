"""Soft values: log psi(s, v) = log E_prior[e | s, v], learned from draws with exact ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from posteriori.objectives.lookahead import is_terminal

CopiedT = TypeVar("CopiedT")

_DROPOUT = 0.1
_SQUASH = 10.0
"""Standard deviations of the evidence at which its size stops to matter as an input."""

_NONE = -3.0
"""What stands for no evidence at all (log e = -inf) among the inputs. Sizes beyond those of usual
evidence would drown what the prior and the token say."""

_FEATURES = 6

_SAMPLED = 16
"""Choices of a prefix whose psi is what the one before it learns from."""

_AVERAGE = 0.02
"""What psi is read from are the weights' average over some 50 updates: their noise would be copied
into the policy."""


class Known(NamedTuple):
    """What is known of N completions' prefixes and next tokens (`lookahead.next_token_view`)."""

    hidden_NLD: Tensor
    choice_NLK: Tensor
    log_prior_NLK: Tensor
    log_evidence_NLK: Tensor
    ended_NL: Tensor
    mask_NL: Tensor
    lengths_N: Tensor

    @classmethod
    def of(cls, attached: Mapping[str, Tensor], mask_NL: Tensor, lengths_N: Tensor) -> Known:
        hidden, choice, log_prior, log_evidence, ended = (attached[n] for n in cls._fields[:5])
        return cls(hidden, choice, log_prior, log_evidence, ended, mask_NL, lengths_N)

    def drawn(self) -> Known:
        """The drawn tokens alone, K = 1."""
        return self.at(self.choice_NLK.new_zeros(*self.mask_NL.shape, 1))

    def at(self, index_NLM: Tensor) -> Known:
        """These of each prefix's choices, in this order."""
        return self._replace(
            choice_NLK=self.choice_NLK.gather(-1, index_NLM),
            log_prior_NLK=self.log_prior_NLK.gather(-1, index_NLM),
            log_evidence_NLK=self.log_evidence_NLK.gather(-1, index_NLM),
        )

    def rows(self, index: Tensor) -> Known:
        return Known(*(each[index] for each in self))


class SoftValues(nn.Module):
    """log psi(s, v) = centre + MLP(h(s), x(v), evidence of s and s + v) + skip log e(s + v).

    h(s) is the prior's hidden state and x(v) its features of the token; evidence enters as that of
    the outcome in which the text ends there, where it is known, in standard deviations. Where the
    outcome is complete with v and its evidence is known, psi is that evidence, exactly. A text that
    has none so far (it breaks a constraint that it may still meet) starts at half of the mean.
    """

    centre: Tensor
    unit: Tensor
    token_VE: Tensor

    def __init__(
        self, hidden: int, token_VE: Tensor, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        # Given with the prior, so a checkpoint need not hold them.
        self.register_buffer("token_VE", _normal(token_VE), persistent=False)
        self.of_state = _linear(hidden, width, generator)
        self.of_token = _linear(token_VE.shape[1], width, generator)
        self.of_evidence = _linear(_FEATURES, width, generator)
        self.inside = _linear(width, width, generator)
        self.out = _linear(width, 1, generator)
        nn.init.zeros_(self.out.weight)
        self.skip = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("centre", torch.full((), torch.nan, dtype=torch.float64))
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.to(token_VE.device)

    def set_scale(self, log_evidence: Tensor) -> None:
        """Fix centre (the log of the mean evidence) and unit (its standard deviation in nats), the
        first time that any draw has evidence."""
        finite = log_evidence[log_evidence > -torch.inf]
        if not bool(self.centre.isnan()) or not len(finite):
            return
        self.centre.copy_(finite.logsumexp(0) - torch.tensor(len(log_evidence)).log())
        spread = finite.std(unbiased=False)
        if float(spread) > 0:
            self.unit.copy_(spread)

    def forward(
        self, known: Known, share_left_L: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """log psi of each choice as the network has it, float64 [N, L, K]; with a generator under
        dropout, for training."""
        x_NLKF = self._evidence(known, share_left_L)
        state_NLW = self.of_state(_normal(known.hidden_NLD.float()))
        token_NLKW = self.of_token(self.token_VE)[known.choice_NLK]
        z_NLKW = silu(state_NLW[..., None, :] + token_NLKW + self.of_evidence(x_NLKF))
        if generator is not None:
            # One mask for the choices of a prefix, drawn from the run's own stream.
            keep = torch.rand(z_NLKW.shape[-1], generator=generator) >= _DROPOUT
            z_NLKW = z_NLKW * (keep / (1 - _DROPOUT)).to(z_NLKW)
        z_NLKW = silu(self.inside(z_NLKW))
        log_psi_NLK = self.out(z_NLKW)[..., 0].double()
        so_far_NLK = self.unit * x_NLKF[..., 0]
        none_NLK = known.log_evidence_NLK == -torch.inf
        start_NLK = (self.skip * so_far_NLK).masked_fill(none_NLK, math.log(0.5))
        return self.centre.nan_to_num(0.0) + log_psi_NLK + start_NLK

    def _evidence(self, known: Known, share_left_L: Tensor) -> Tensor:
        there_NLK = ~known.log_evidence_NLK.isnan()
        of_child_NLK = self._squashed(known.log_evidence_NLK)
        of_own_NLK = self._squashed(known.ended_NL)[..., None].expand_as(of_child_NLK)
        centred_NLK = known.log_evidence_NLK - self.centre.nan_to_num(0.0)
        features = [
            of_child_NLK,
            of_own_NLK,
            of_child_NLK - of_own_NLK,
            centred_NLK.nan_to_num(0.0, neginf=-torch.inf).sigmoid(),
            share_left_L[:, None].expand_as(of_child_NLK),
            there_NLK,
        ]
        return torch.stack([each.float() for each in features], dim=-1)

    def _squashed(self, log_evidence: Tensor) -> Tensor:
        """In standard deviations from the centre, between -10 and 10; 0 where it is not known, -3
        where there is none."""
        z = (log_evidence - self.centre.nan_to_num(0.0)) / self.unit
        z = z / (1 + z.abs() / _SQUASH)
        return z.where(log_evidence != -torch.inf, _NONE).where(~log_evidence.isnan(), 0.0)


class Posterior(NamedTuple):
    """log q(v | s) [N, L, K] ~ log prior(v | s) + log psi(s, v), and log psi(s) [N, L]."""

    log_share_NLK: Tensor
    log_psi_NL: Tensor


class Learner:
    """The soft values and their optimiser: fitted a little further with every step's draws."""

    def __init__(self, values: SoftValues, rate: float, eos: Tensor, max_new_tokens: int) -> None:
        self.values, self._eos, self._length = values, eos, max_new_tokens
        self._averaged = _copied(values, values.token_VE)
        self._optimizer = torch.optim.AdamW(values.parameters(), lr=rate, weight_decay=0.01)

    def fitted(self, known: Known, batches: list[Tensor], generator: torch.Generator) -> Learner:
        """A copy that has learned from the batches; its loss is in `loss`."""
        learner = _copied(self, self.values.token_VE)
        losses = [learner._learn(known.rows(rows), generator) for rows in batches]
        learner.loss = sum(losses) / max(len(losses), 1)
        return learner

    loss: float = 0.0

    def set_scale(self, log_evidence: Tensor) -> None:
        """As `SoftValues.set_scale`."""
        for values in (self.values, self._averaged):
            values.set_scale(log_evidence)

    def posterior(self, known: Known) -> Posterior:
        """By the values as they are, without gradient. -inf where nothing of a prefix can have
        evidence."""
        with torch.no_grad():
            log_psi_NLK = self._with_ends(known, self._averaged(known, self._left(known)))
            return _posterior(known, log_psi_NLK)

    def _estimated(self, known: Known, generator: torch.Generator) -> Tensor:
        """log of the mean of psi over a few choices of each prefix, drawn in proportion to their
        prior by systematic sampling: psi(s) without bias, float64 [N, L]."""
        last_NL1 = (known.log_prior_NLK > -torch.inf).int().cumsum(-1).argmax(-1, keepdim=True)
        cumulative_NLK = known.log_prior_NLK.softmax(-1).cumsum(-1)
        device = cumulative_NLK.device
        start_NL1 = torch.rand(*known.mask_NL.shape, 1, generator=generator).double().to(device)
        point_NLM = (start_NL1 + torch.arange(_SAMPLED, device=device)) / _SAMPLED
        # Rounding may leave the sum a little below the last point.
        index_NLM = torch.searchsorted(cumulative_NLK, point_NLM).minimum(last_NL1)
        some = known.at(index_NLM)
        with torch.no_grad():
            log_psi_NLM = self._with_ends(some, self._averaged(some, self._left(some)))
        return log_psi_NLM.logsumexp(-1) - math.log(_SAMPLED)

    def _learn(self, known: Known, generator: torch.Generator) -> float:
        """One gradient step on exp(f) - y f, whose minimum is f = log E[y]: f is log psi of the
        drawn token and y = psi of the prefix that it leads to, both over exp(centre).

        y is as the values have it now (fitted value iteration); where the outcome is complete, psi
        is exact, so that what is known spreads from the ends to the beginning. The loss is linear
        in y, so an unbiased estimate of it has the same minimum: psi of some choices is enough.
        """
        target_NL = self._estimated(known, generator).roll(-1, 1)
        log_psi_NL = self.values(known.drawn(), self._left(known), generator)[..., 0]
        at_L = torch.arange(log_psi_NL.shape[1], device=log_psi_NL.device)
        exact_NL = ~known.log_evidence_NLK[..., 0].isnan() & self._terminal(known)[..., 0]
        inner_NL = (at_L < known.lengths_N[:, None] - 1) & ~exact_NL
        if not bool(inner_NL.any()):
            return 0.0
        centre = self.values.centre.nan_to_num(0.0)
        f_M = log_psi_NL[inner_NL] - centre
        y_M = (target_NL[inner_NL] - centre).exp()
        loss = (f_M.exp() - y_M * f_M).mean()
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.values.parameters(), 1.0)
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        with torch.no_grad():
            moving = zip(self._averaged.parameters(), self.values.parameters(), strict=True)
            for average, now in moving:
                average.lerp_(now, _AVERAGE)
        return float(loss.detach())

    def _with_ends(self, known: Known, log_psi_NLK: Tensor) -> Tensor:
        exact_NLK = self._terminal(known) & ~known.log_evidence_NLK.isnan()
        return torch.where(exact_NLK, known.log_evidence_NLK, log_psi_NLK)

    def _terminal(self, known: Known) -> Tensor:
        return is_terminal(known.choice_NLK, self._eos, self._length)

    def _left(self, known: Known) -> Tensor:
        at_L = torch.arange(known.choice_NLK.shape[1], device=known.choice_NLK.device)
        return (self._length - 1 - at_L).double() / self._length

    def state(self) -> dict[str, Any]:
        return {
            "values": self.values.state_dict(),
            "averaged": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.values.load_state_dict(state["values"])
        self._averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])


def _copied(whole: CopiedT, token_VE: Tensor) -> CopiedT:
    """A copy with the same tensor of token features, which is the largest and never changes."""
    return copy.deepcopy(whole, {id(token_VE): token_VE})


def _posterior(known: Known, log_psi_NLK: Tensor) -> Posterior:
    """psi(s) = sum_v prior(v|s) psi(s, v); the tokens that are not among the choices count with the
    mean of those that are."""
    joint_NLK = known.log_prior_NLK + log_psi_NLK
    joint_NLK = joint_NLK.where(known.log_prior_NLK > -torch.inf, -torch.inf)
    log_psi_NL = joint_NLK.logsumexp(-1) - known.log_prior_NLK.logsumexp(-1)
    shift_NL1 = log_psi_NL.where(log_psi_NL > -torch.inf, 0.0)[..., None]
    return Posterior(joint_NLK - shift_NL1, log_psi_NL)


def _normal(rows: Tensor) -> Tensor:
    return layer_norm(rows, rows.shape[-1:])


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Weights from the run's own stream: the usual ones would come from torch's global one."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
        layer.bias.zero_()
    return layer
