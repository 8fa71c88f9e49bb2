"""What prior and evidence say of every next token of the prefixes that were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import NextTokenLM, NextTokens
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.errors import ObjectiveError


def next_token_prior(target: Target, objective: str, instead: str) -> NextTokenLM:
    """The target's prior, where it says what tokens may come next. Raises `ObjectiveError` where it
    does not; `instead` is an objective that does without."""
    prior = target.prior
    if not isinstance(prior, NextTokenLM):
        raise ObjectiveError(
            f"'{objective}' needs a prior that says what tokens may come next, and "
            f"{type(prior).__name__} does not",
            hint=f"use a CausalLM (posteriori.load), or another objective, such as {instead}",
        )
    return prior


def next_token_view(
    target: Target, prior: NextTokenLM, draws: Draws, most: int
) -> Mapping[str, Tensor]:
    """Of every prefix s = (c, y_<t): K next tokens, their log prior, and what evidence they bring.

    `choice_NLK` are the drawn token, the ends of sequence and the `most` most probable tokens.
    `log_evidence_NLK` is log e of the outcome s + v, and where v is no end of sequence and t < T,
    of the outcome in which the end of sequence follows v: the evidence if the text ended there.
    `ended_NL` is the same for s itself. Past a completion's end they are NaN. Every text that the
    evidence sees is an outcome of the target. Equal prefixes are asked about once.
    """
    completions = draws.completions
    view = prior.next_tokens(completions, most)
    log_e_NLK = torch.full_like(view.log_prob_NLK, torch.nan)
    ended_NL = torch.full_like(view.log_prob_NLK[..., 0], torch.nan)
    assert draws.token_log_prior_NL is not None, "draw() has scored them by the prior"
    before_NL = draws.token_log_prior_NL.cumsum(-1) - draws.token_log_prior_NL
    for t in range(int(completions.lengths_N.max())):
        _ask_at(target, completions, t, view, before_NL[:, t], log_e_NLK, ended_NL)
    _fill_drawn(draws, log_e_NLK, ended_NL)
    return {
        "hidden_NLD": view.hidden_NLD,
        "choice_NLK": view.token_NLK,
        "log_prior_NLK": view.log_prob_NLK,
        "log_evidence_NLK": log_e_NLK,
        "ended_NL": ended_NL,
    }


def is_terminal(choice_NLK: Tensor, eos: Tensor, max_new_tokens: int) -> Tensor:
    """Whether the outcome is complete with that token: bool [N, L, K]."""
    last_L = torch.arange(choice_NLK.shape[1], device=choice_NLK.device) == max_new_tokens - 1
    return torch.isin(choice_NLK, eos) | last_L[:, None]


def _ask_at(
    target: Target,
    completions: Completions,
    t: int,
    view: NextTokens,
    log_prior_N: Tensor,
    log_e_NLK: Tensor,
    ended_NL: Tensor,
) -> None:
    """Fill in what the evidence says at position t, once for each distinct prefix of t tokens."""
    rows = (completions.lengths_N > t).nonzero()[:, 0]
    some = completions.select(rows)
    _, place_n = some.distinct_prefixes(torch.full_like(some.lengths_N, t))
    first_D = torch.zeros(int(place_n.max()) + 1, dtype=torch.long, device=rows.device)
    first_D[place_n] = torch.arange(len(rows), device=rows.device)
    at_D = rows[first_D]
    tokens_DK, next_DK = view.token_NLK[at_D, t, 1:], view.log_prob_NLK[at_D, t, 1:]
    eos = torch.tensor(target.prior.eos_token_ids, device=rows.device)
    texts = _continued(completions, at_D, t, tokens_DK, eos)
    # A token that is in the row twice has no probability the second time, and is not used there.
    log_prior_DK = log_prior_N[at_D, None] + next_DK.where(next_DK > -torch.inf, 0.0)
    log_e_DK = target.score(texts, log_prior_DK.flatten()).log_evidence.view_as(tokens_DK)
    log_e_NLK[rows, t, 1:] = log_e_DK[place_n]
    ended_NL[rows, t] = log_e_DK[place_n, 0]


def _continued(
    completions: Completions, at_D: Tensor, t: int, tokens_DK: Tensor, eos: Tensor
) -> Completions:
    """The outcomes prefix + v, followed by an end of sequence where v is none and there is room."""
    choices = tokens_DK.shape[1]
    v_M = tokens_DK.flatten()
    ends_M = torch.isin(v_M, eos)
    room = t + 1 < completions.max_new_tokens
    prefix_Mt = completions.tokens_NL[at_D, :t].repeat_interleave(choices, 0)
    columns = [prefix_Mt, v_M[:, None]]
    if room:
        columns.append(eos[:1].expand(len(v_M), 1).where(~ends_M[:, None], 0))
    return replace(
        completions,
        prompt_index_N=completions.prompt_index_N[at_D].repeat_interleave(choices),
        tokens_NL=torch.cat(columns, dim=1),
        lengths_N=t + 1 + (~ends_M & room).long(),
        ended_N=ends_M | room,
        token_log_prob_NL=None,
    )


def _fill_drawn(draws: Draws, log_e_NLK: Tensor, ended_NL: Tensor) -> None:
    """The drawn token, in the first place: it leads to the next prefix, or ends the outcome."""
    log_e_NLK[:, :-1, 0] = ended_NL[:, 1:]
    rows = torch.arange(len(draws), device=ended_NL.device)
    log_e_NLK[rows, draws.completions.lengths_N - 1, 0] = draws.log_evidence_N
