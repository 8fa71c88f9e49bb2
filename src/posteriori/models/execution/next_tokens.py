"""What a transformers model says of every next token: for objectives that use more of a prefix than
the one token that was drawn after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import NextTokens
from posteriori.models.warp import Warp

from .hidden_states import prefix_features
from .running_model import AnyForward


@torch.no_grad()
def next_tokens(
    forward: AnyForward, completions: Completions, eos: Tensor, warp: Warp, most: int
) -> NextTokens:
    """The prior's view of each prefix (c, y_<t); see `posteriori.core.protocols.NextTokens`.

    `forward` leaves the head out where logits are exactly what the head returns; otherwise hidden
    states take a pass of their own.
    """
    width = int(completions.lengths_N.max())
    hidden_NLD = prefix_features(forward, completions)
    if forward.hidden:
        assert forward.head is not None
        logits_NLV = forward.head(hidden_NLD)
    else:
        logits_NLV = _logits(forward, completions, width)
    warped_NLV = warp.logits(logits_NLV, _positions(width, forward.device), eos)
    return choices(warped_NLV, hidden_NLD, completions.tokens_NL[:, :width], eos, most)


def choices(
    logits_NLV: Tensor, hidden_NLD: Tensor, drawn_NL: Tensor, eos: Tensor, most: int
) -> NextTokens:
    """The drawn token, the ends of sequence and the `most` most probable tokens of each prefix.

    A token that is there already has log-prob -inf the second time, so the probabilities of a row
    add up to the mass of its distinct tokens.
    """
    most = min(most, logits_NLV.shape[-1])
    top_NLM = logits_NLV.topk(most, dim=-1).indices
    ends_NLE = eos.expand(*drawn_NL.shape, len(eos))
    token_NLK = torch.cat([drawn_NL.to(top_NLM.device)[..., None], ends_NLE, top_NLM], dim=-1)
    log_prob_NLK = log_prob_of(logits_NLV, token_NLK)
    again_NLK = torch.zeros_like(token_NLK, dtype=torch.bool)
    for at in range(1 + len(eos)):
        again_NLK[..., at + 1 :] |= token_NLK[..., at + 1 :] == token_NLK[..., at : at + 1]
    return NextTokens(hidden_NLD, token_NLK, log_prob_NLK.masked_fill(again_NLK, -torch.inf))


def choice_log_prob(
    forward: AnyForward,
    completions: Completions,
    token_NLK: Tensor,
    eos: Tensor,
    warp: Warp,
) -> Tensor:
    """log pi(v | c, y_<t) of the given tokens, float64 [N, T, K]; meaningless past the end."""
    width = int(completions.lengths_N.max())
    logits_NTV = _logits(forward, completions, width)
    warped_NTV = warp.logits(logits_NTV, _positions(width, forward.device), eos)
    return log_prob_of(warped_NTV, token_NLK[:, :width])


def log_prob_of(logits_NLV: Tensor, token_NLK: Tensor) -> Tensor:
    """log softmax at the given tokens, float64, without a second tensor of the logits' size."""
    total_NL1 = logits_NLV.logsumexp(-1, keepdim=True)
    return (logits_NLV.gather(-1, token_NLK) - total_NL1).double()


def _logits(forward: AnyForward, completions: Completions, width: int) -> Tensor:
    tokens_NT = completions.tokens_NL[:, : width - 1].to(forward.device)
    prompt_ids, parent_N = completions.distinct_prompts()
    parts: Sequence[Tensor] = forward.continued(prompt_ids, parent_N.to(forward.device), tokens_NT)
    return torch.cat(list(parts), dim=1)


def _positions(width: int, device: torch.device) -> Tensor:
    return torch.arange(width, device=device)
