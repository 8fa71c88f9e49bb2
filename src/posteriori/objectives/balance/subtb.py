"""Sub-trajectory balance: the log-ratio made equal at every place where a draw could have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posteriori.core.protocols import NextTokenLM, TrainableLM
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.errors import ObjectiveError
from posteriori.objectives.base import Constants
from posteriori.objectives.lookahead import next_token_prior, next_token_view
from posteriori.objectives.score_function import AnyProposal, AnyProposalConfig


class SubTBConfig(AnyProposalConfig):
    """Settings of the objective "subtb".

    Args:
        proposal: what draws: "policy", as it stands, or "prior".
        epochs: updates made of one step's draws.
        decay: a piece of k tokens has the weight decay^k; 1 counts all pieces alike.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    epochs: int = Field(default=1, ge=1)
    decay: float = Field(default=1.0, gt=0, le=1)


class SubTB(AnyProposal[SubTBConfig]):
    """loss(y) = sum_{i<j} w_ij (rho_i - rho_j)^2 / 2,  w_ij ~ decay^(j - i) with sum 1,
    rho_t = log prior(s_t, end) + log e(s_t, end) - log pi(s_t, end),  s_t = (c, y_<t).

    rho_t is the log-ratio of the outcome that the first t tokens of the draw are when the end of
    sequence follows; the last one is rho(y) itself. At the target all of them are log Z(c), so the
    loss and its gradient are zero there, draw by draw, for any q that can draw every outcome, and
    nowhere else: the empty outcome is on the path of every draw, and ties all of a prompt's
    outcomes together. No ratio is needed, for draws of the prior and of earlier steps (`replay`)
    neither, and no baseline or learned log Z. A piece of a few tokens says which of them made the
    evidence, where `vargrad` and `tb` have one number for a whole draw.

    The evidence is asked about each of a draw's prefixes: T calls per draw, T its tokens. It has to
    say something of texts that end early, and no such text may be ruled out: evidence zero makes
    rho infinite and raises `ObjectiveError`.

    Source: Hu et al. 2024, arXiv 2310.04363, equation 3 (with flows by the reward of what has
    ended, section 3); the weights by length, Madan et al. 2023, 2209.12782.
    """

    name = "subtb"
    needs_log_prob: ClassVar[bool] = False
    reads_choices = True

    Settings = SubTBConfig

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:  # noqa: ARG002
        prior = next_token_prior(target, self.name, instead="vargrad")
        self.epochs = self.settings.epochs
        # In a tuple, because a table is a Module and must not become part of this one.
        self._prior: tuple[NextTokenLM] = (prior,)
        self._eos = torch.tensor(prior.eos_token_ids)

    def complete(self, target: Target, draws: Draws) -> Draws:
        # The ends of sequence and the token that was drawn.
        view = next_token_view(target, self._prior[0], draws, most=0)
        kept = ("choice_NLK", "log_prior_NLK", "log_evidence_NLK")
        return replace(draws, attached={**draws.attached, **{name: view[name] for name in kept}})

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:  # noqa: ARG002 - any draws
        """log p~ of each outcome on a draw's path, [N, L + 1], and which there are."""
        completions = draws.completions
        choice_NLK = draws.attached["choice_NLK"]
        log_prior_NLK = draws.attached["log_prior_NLK"]
        # An end that was drawn stands first, and its second place has no probability.
        ends_NLK = torch.isin(choice_NLK, self._eos.to(choice_NLK.device))
        ends_NLK &= log_prior_NLK > -torch.inf
        assert draws.token_log_prior_NL is not None, "draw() has scored them by the prior"
        before_NL = draws.token_log_prior_NL.cumsum(-1) - draws.token_log_prior_NL
        log_end_NLK = log_prior_NLK + draws.attached["log_evidence_NLK"]
        log_end_NL = log_end_NLK.where(ends_NLK, -torch.inf).logsumexp(-1)
        log_target_N = draws.log_prior_N + draws.log_evidence_N
        whole_N1 = (~completions.ended_N)[:, None]
        on_path_NS = torch.cat([completions.mask_NL, torch.zeros_like(whole_N1)], dim=1)
        last_NS = torch.zeros_like(on_path_NS).scatter(1, completions.lengths_N[:, None], whole_N1)
        log_target_NS = torch.cat([before_NL + log_end_NL, log_target_N[:, None]], dim=1)
        log_target_NS = log_target_NS.where(~last_NS, log_target_N[:, None])
        on_path_NS |= last_NS
        self._refuse_hard_evidence(draws, log_target_NS.where(on_path_NS, 0.0))
        return {
            "choice_NLK": choice_NLK,
            "ends_NLK": ends_NLK,
            "log_target_NS": log_target_NS.where(on_path_NS, 0.0),
            "on_path_NS": on_path_NS,
        }

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        """`token_log_prob_nL` is log pi of the choices, [n, L, K]; the drawn token is the first."""
        log_pi_nLK, on_path_nS = token_log_prob_nL, constants["on_path_NS"]
        # Past a draw's end nothing is known; and a logsumexp of nothing has no gradient.
        there_nL = constants["ends_NLK"].any(-1) & on_path_nS[:, :-1]
        log_end_nLK = log_pi_nLK.where(constants["ends_NLK"] & there_nL[..., None], -1e30)
        log_end_nL = log_end_nLK.logsumexp(-1).where(there_nL, 0.0)
        drawn_nL = log_pi_nLK[..., 0].where(on_path_nS[:, :-1], 0.0)
        before_nS = torch.nn.functional.pad(drawn_nL.cumsum(-1), (1, 0))
        log_pi_nS = before_nS + torch.nn.functional.pad(log_end_nL, (0, 1))
        rho_nS = (constants["log_target_NS"] - log_pi_nS).where(on_path_nS, 0.0)
        return self._spread(rho_nS, on_path_nS)

    def _spread(self, rho_nS: Tensor, on_path_nS: Tensor) -> Tensor:
        """sum_{i<j} w_ij (rho_i - rho_j)^2 / 2, [n]; 0 where a path has one outcome.

        The squares are taken apart, so that all pairs cost one product with decay^(j - i).
        """
        there_nS = on_path_nS.to(rho_nS)
        with torch.no_grad():
            centre_n1 = (rho_nS * there_nS).sum(-1, keepdim=True) / there_nS.sum(-1, keepdim=True)
        rho_nS = (rho_nS - centre_n1) * there_nS
        place_S = torch.arange(rho_nS.shape[1], device=rho_nS.device)
        gap_SS = place_S - place_S[:, None]
        decay_SS = (self.settings.decay ** gap_SS.to(rho_nS)).where(gap_SS > 0, 0.0)
        pairs_n = ((there_nS @ decay_SS) * there_nS).sum(-1)
        count_nS = there_nS @ (decay_SS + decay_SS.T)
        squares_n = (count_nS * rho_nS.square()).sum(-1)
        products_n = ((rho_nS @ decay_SS) * rho_nS).sum(-1)
        return (squares_n - 2 * products_n) / (2 * pairs_n.clamp(min=1e-300))

    def _refuse_hard_evidence(self, draws: Draws, log_target_NS: Tensor) -> None:
        ruled_out_NS = log_target_NS.isneginf()
        if not bool(ruled_out_NS.any()):
            return
        row, tokens = (int(place) for place in ruled_out_NS.nonzero()[0])
        raise ObjectiveError(
            f"'{self.name}' squares log evidence, which is infinite: the evidence (or the prior) "
            f"rules out {int(ruled_out_NS.any(-1).sum())} of {len(draws)} draws where they could "
            f"have ended, the first after {tokens} tokens of {draws.texts[row][:60]!r}",
            hint="use an objective for hard evidence (soft_q, dpg, rwr, raft), or soften the "
            "evidence (a Reward with a finite penalty)",
        )
