"""A next token among those that the target's constraints let through, and what these weigh."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.cost import spend
from posteriori.core.protocols import LanguageModel, TokenConstraint
from posteriori.core.target import Target
from posteriori.errors import ConfigError

from .candidates import Drawn, distinct, log_less, one_of, or_outside, rows_at, side_by_side
from .resampling import Choices

DEFAULT = 64
_ENOUGH = 0.95
"""Tokens that are less probable than so much of the mass are checked only if the others fail."""
_GROWTH = 8
_OUTSIDE = 0.5
"""Largest mean number of tokens of a completion that a grammar does not let through."""
_TOO_LATE = 1e-6
"""The same for tokens after which the grammar cannot be completed in the tokens that are left."""
_DOUBT = 1.0
"""Nats that are withheld at least per token of a prefix that the grammar does not know."""
_ROUNDS = 3
"""Where all tokens that were checked are ruled out, 8 times as many are checked, and once more."""


def token_constraints(target: Target) -> list[TokenConstraint]:
    """The constraints of the target that can be asked whether a token may come next."""
    return [e for e in target.evidence if isinstance(e, TokenConstraint) and e.judges_prefixes]


def next_tokens_checked(
    target: Target, proposal: LanguageModel, wanted: int | Literal["auto"], sampler: str
) -> int:
    """How many next tokens a sampler checks by its setting `lookahead`: of "auto" `DEFAULT` where
    the prior itself proposes and every constraint with a prefix check is quick, and else 0."""
    constraints = token_constraints(target)
    if target.temper == 0.0:
        # What the constraints rule out has its prior probability there.
        constraints = []
    if wanted == "auto":
        quick = constraints and all(each.quick for each in constraints)
        return DEFAULT if quick and proposal is target.prior else 0
    if wanted and not constraints:
        raise ConfigError(
            "lookahead checks next tokens, and no constraint of the target can judge a prefix",
            where=f"sampler '{sampler}'",
            hint="write Constraint(fn, prefix=may_still_hold), or leave lookahead out",
        )
    return wanted


class Checked(NamedTuple):
    """What was found of D prefixes: the K next tokens that fit, [D, K], with log p -inf in places
    that are not filled; log p of all tokens [D, V], -inf for those that were checked; and the log
    of the mass of what was not checked."""

    token_DK: Tensor
    log_p_DK: Tensor
    unseen_DV: Tensor
    log_rest_D: Tensor


_Rest = tuple[Tensor, Tensor]
"""log p of some tokens [D, V], and the log of their mass [D]."""


class Lookahead:
    """v ~ q(v | s), nearly p(v | s) c(s + v) / Z(s), and w with E_q[w f(v)] = sum_v p(v | s)
    c(s + v) f(v) for every f; c is 1 where no constraint rules out s + v, else 0.

    The `most` probable tokens S of a prefix s are checked (of those that a grammar lets through,
    where there is one), more where all of them are ruled out, and one x ~ p of all other tokens.
    v is drawn from

        u in S with p(u) c(u),   and x with (1 - p(S)) c(x);    w is the sum of all of these.

    That is exact because S is a function of s alone. With a grammar, x is drawn twice: from what it
    lets through and from what it does not. The latter is chosen with a probability of at most
    1/(2 T), and what it weighs more for that is withheld until its end, as a twist; so is what its
    tokens have cost on average, for every token from there on. A grammar that is too narrow costs
    effective draws, and few particles leave one that is right. Tokens after which it needs more
    tokens than `max_new_tokens` leaves are never in S, and x is drawn of them a third time, with a
    probability of at most 1e-6/T: so a text is closed in time. A particle dies only where nothing
    was found that may come right. With every token in S it is masked decoding, weighed by its
    normaliser. Sources: locally constrained proposals, Lew et al. 2023 (arXiv 2306.03081); few
    checks in place of a mask, Lipkin et al. 2025 (2504.05410).
    """

    def __init__(self, target: Target, most: int) -> None:
        self._target, self._most = target, most
        self._constraints = token_constraints(target)
        found = [each.hints(target.prior) for each in self._constraints]
        self._hints = [each for each in found if each is not None]
        self._rounds = _ROUNDS - 1 if self._hints else _ROUNDS

    def draw(
        self, logits_LV: Tensor, prefixes: Completions, cost_L: Tensor, choices: Choices
    ) -> tuple[Drawn, Tensor]:
        """A token per prefix, and log p of it, float64. The prefixes have equally many tokens;
        `cost_L` is what these have cost, -log w in nats, with what is withheld already."""
        first_D, place_L = distinct(prefixes)
        log_p_DV = rows_at(logits_LV, first_D).log_softmax(-1)
        firsts = prefixes.select(first_D)
        likely_DV, known_D = self._likely(firsts, log_p_DV)
        late_DV = self._too_late(firsts, log_p_DV)
        checked = self._checked(log_p_DV, likely_DV, late_DV, firsts)

        def another(of_rest_DV: Tensor, log_mass_D: Tensor) -> Drawn:
            return self._another(of_rest_DV, log_mass_D, place_L, prefixes, choices)

        if likely_DV is None:
            drawn = _one_of_checked(
                checked, place_L, another(checked.unseen_DV, checked.log_rest_D), choices
            )
        else:
            inside, outside, late = _rest_by_grammar(checked, likely_DV, late_DV)
            drawn = _one_of_checked(checked, place_L, another(*inside), choices)
            length = prefixes.max_new_tokens
            drawn = or_outside(drawn, another(*outside), _OUTSIDE / length, choices)
            if late is not None:
                drawn = or_outside(drawn, another(*late), _TOO_LATE / length, choices)
            paid_L = cost_L / max(int(prefixes.lengths_N[0]), 1)
            doubt_L = paid_L.clamp(min=_DOUBT).where(~known_D[place_L], 0.0)
            drawn = drawn._replace(log_withheld_L=drawn.log_withheld_L + doubt_L)
        return drawn, log_p_DV[place_L, drawn.token_L].double()

    def _checked(
        self,
        log_p_DV: Tensor,
        likely_DV: Tensor | None,
        late_DV: Tensor | None,
        prefixes: Completions,
    ) -> Checked:
        """S, round after round for the prefixes of which nothing was found that fits."""
        unseen_DV, most = log_p_DV.clone(), self._most
        seen_D = log_p_DV.new_zeros(len(log_p_DV), dtype=torch.float64)
        open_D = torch.arange(len(log_p_DV), device=log_p_DV.device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for number in range(self._rounds):
            score_dV = unseen_DV[open_D]
            if number == 0 and likely_DV is not None:
                score_dV = score_dV.where(likely_DV, -torch.inf)
            if late_DV is not None:
                score_dV = score_dV.masked_fill(late_DV[open_D], -torch.inf)
            log_p_dK, token_dK = score_dV.topk(min(most, score_dV.shape[-1]), dim=-1)
            p_dK = log_p_dK.double().exp()
            asked_dK = (log_p_dK > -torch.inf) & (p_dK.cumsum(-1) - p_dK < _ENOUGH)
            row_M, token_M = open_D[asked_dK.nonzero()[:, 0]], token_dK[asked_dK]
            fits_M = self._fit(prefixes.select(row_M), token_M)
            unseen_DV[row_M, token_M] = -torch.inf
            seen_D.index_add_(0, open_D, p_dK.where(asked_dK, 0.0).sum(-1))
            found.append((row_M[fits_M], token_M[fits_M], log_p_dK[asked_dK][fits_M].double()))
            open_D = open_D[~torch.isin(open_D, row_M[fits_M])]
            if not len(open_D):
                break
            most *= _GROWTH
        row_M, token_M, log_p_M = (torch.cat(parts) for parts in zip(*found, strict=True))
        token_DK, log_p_DK = side_by_side(row_M, len(log_p_DV), token_M, log_p_M)
        left_D = (unseen_DV > -torch.inf).any(-1)
        log_rest_D = torch.log1p(-seen_D.clamp(max=1.0)).where(left_D, -torch.inf)
        return Checked(token_DK, log_p_DK, unseen_DV, log_rest_D)

    def _likely(self, prefixes: Completions, log_p_DV: Tensor) -> tuple[Tensor | None, Tensor]:
        """What all grammars let through, and whether they know the prefix at all: where they do
        not, everything is let through."""
        likely_DV = torch.ones_like(log_p_DV, dtype=torch.bool)
        for hints in self._hints:
            likely_DV &= hints.likely(prefixes.completion_ids).to(likely_DV.device)
        known_D = likely_DV.any(-1)
        return likely_DV | ~known_D[:, None] if self._hints else None, known_D

    def _too_late(self, prefixes: Completions, log_p_DV: Tensor) -> Tensor | None:
        """Where a grammar cannot be completed any more; None where none says so of any token."""
        left = prefixes.max_new_tokens - int(prefixes.lengths_N[0]) - 1
        said = [hints.too_late(prefixes.completion_ids, left) for hints in self._hints]
        late = [late_DV.to(log_p_DV.device) for late_DV in said if late_DV is not None]
        late_DV = torch.stack(late).any(0) if late else None
        return late_DV if late_DV is not None and bool(late_DV.any()) else None

    def _another(
        self,
        unseen_DV: Tensor,
        log_mass_D: Tensor,
        place_L: Tensor,
        prefixes: Completions,
        choices: Choices,
    ) -> Drawn:
        """x ~ p of the tokens that were not checked, with their mass if x fits, else without any.
        Token 0 where there are none."""
        log_mass_L = log_mass_D[place_L]
        x_L = torch.zeros_like(place_L)
        some = (log_mass_L > -torch.inf).nonzero()[:, 0]
        if not len(some):
            return Drawn(x_L, log_mass_L, torch.zeros_like(log_mass_L))
        x_L[some], _ = choices.tokens(rows_at(unseen_DV, place_L[some]))
        fits_L = torch.zeros_like(place_L, dtype=torch.bool)
        fits_L[some] = self._fit(prefixes.select(some), x_L[some])
        log_w_L = log_mass_L.where(fits_L, -torch.inf)
        return Drawn(x_L, log_w_L, torch.zeros_like(log_w_L))

    def _fit(self, prefixes: Completions, token_M: Tensor) -> Tensor:
        """c(s + v) of one token for each prefix: bool [M]. A constraint judges what is complete
        with v, and the beginning of a text otherwise."""
        eos = torch.tensor(self._target.prior.eos_token_ids, device=token_M.device)
        ended_M = torch.isin(token_M, eos)
        longer = replace(
            prefixes,
            tokens_NL=torch.cat([prefixes.tokens_NL, token_M[:, None]], dim=1),
            lengths_N=prefixes.lengths_N + 1,
            ended_N=ended_M,
            token_log_prob_NL=None,
        )
        fits_M = torch.ones_like(ended_M)
        done_M = ended_M | (longer.lengths_N == longer.max_new_tokens)
        for part_M, whole in ((done_M, True), (~done_M, False)):
            if bool(part_M.any()):
                fits_M[part_M] = self._let_through(longer.select(part_M), whole)
        return fits_M

    def _let_through(self, completions: Completions, whole: bool) -> Tensor:
        columns = self._target.columns_of(completions)
        spend(evidence_calls=len(completions) * len(self._constraints))
        fits_M = torch.ones_like(completions.ended_N)
        for each in self._constraints:
            if whole:
                log_e_M = each.score(completions, columns).log_evidence
            else:
                log_e_M = each.prefix_log_evidence(completions, columns)
            if log_e_M is not None:
                fits_M &= (log_e_M > -torch.inf).to(fits_M.device)
        return fits_M


def _one_of_checked(checked: Checked, place_L: Tensor, x: Drawn, choices: Choices) -> Drawn:
    """One of the tokens that were checked and fit, or x, in proportion to their masses."""
    token_LM = torch.cat([checked.token_DK[place_L], x.token_L[:, None]], dim=1)
    log_mass_LM = torch.cat([checked.log_p_DK[place_L], x.log_w_L[:, None]], dim=1)
    return one_of(token_LM, log_mass_LM, choices)


def _rest_by_grammar(
    checked: Checked, likely_DV: Tensor, late_DV: Tensor | None
) -> tuple[_Rest, _Rest, _Rest | None]:
    """What was not checked: of that which the grammar lets through, of that which it does not, and
    of that with which it is too late."""
    soon_DV, late = checked.unseen_DV, None
    if late_DV is not None:
        late = _part(checked.unseen_DV, late_DV)
        soon_DV = soon_DV.masked_fill(late_DV, -torch.inf)
    inside = _part(soon_DV, likely_DV)
    outside_DV = soon_DV.where(~likely_DV, -torch.inf)
    some_D = (outside_DV > -torch.inf).any(-1)
    log_others_D = inside[1] if late is None else torch.logaddexp(inside[1], late[1])
    log_outside_D = log_less(checked.log_rest_D, log_others_D).where(some_D, -torch.inf)
    return inside, (outside_DV, log_outside_D), late


def _part(unseen_DV: Tensor, which_DV: Tensor) -> _Rest:
    part_DV = unseen_DV.where(which_DV, -torch.inf)
    some_D = (part_DV > -torch.inf).any(-1)
    log_mass_D = torch.full((len(part_DV),), -torch.inf, dtype=torch.float64, device=some_D.device)
    log_mass_D[some_D] = part_DV[some_D].logsumexp(-1).double()
    return part_DV, log_mass_D
