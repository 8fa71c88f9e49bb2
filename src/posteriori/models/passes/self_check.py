"""What a model can do, found out once at its first use.

Sampler and scorer pad prompts on the left and continue a key-value cache, by one token or several.
Not every architecture does that rightly, and those that do not say nothing. So a few tokens are run
in that way and in one plain pass, and the two are compared. A causal model's logits do not depend
on what comes later, nor on whether anything does; that is compared too, since no log-prob makes
sense for another model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from posteriori.errors import ModelError

from . import memory
from .forward import Forward
from .rotary import switches
from .uncached import BareForward

_FAR, _FAR_IF_ROUNDED = 1e-3, 0.1
"""Shares of the largest logit by which two right ways through one model differ at most, in float32
and where its products are rounded. The wrong ways that are known differ by a tenth and more."""

_LONG, _SHORT, _MORE = 6, 2, 3
"""Tokens of a long prompt, of a short one, and of what continues each."""


@torch.no_grad()
def can_be_continued(
    base: PreTrainedModel, facts: dict[Any, Any], forward: Forward, rounded: bool
) -> bool:
    """Whether padding on the left and a cache change nothing for this model.

    Two plain passes over two rows of six and of nine tokens and three passes with the cache, once
    per model: the answer is kept among the `facts` about it. Nothing is found out about a model
    that gives NaN. Raises `ModelError` for one that cannot be run, or is not causal.
    """
    implementation = forward.config._attn_implementation
    key = ("can be continued", implementation, str(forward.dtype), rounded)
    known = facts.get(key)
    if known is None:
        answer = _find_out(
            replace(forward, call=replace(forward.call, hidden=False)), base, rounded
        )
        if answer is None:
            return True
        known = facts[key] = answer
    return known


def keeps_gradients(config: PreTrainedConfig) -> bool:
    """Whether the cache only ever appends: a state that is written over has lost its gradient."""
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def _find_out(forward: Forward, base: PreTrainedModel, rounded: bool) -> bool | None:
    name, device = forward.call.name, forward.device
    long, short, more = _sizes(forward.config)
    known = memory.embedding_weight(base).shape[0]
    # Other tokens than the first, which is padding or the end of sequence for many.
    one = [(1 + at * 2 % max(1, known - 1)) % known for at in range(long + more)]
    other = [(1 + at * 3 % max(1, known - 1)) % known for at in range(short + more)]
    rows = [one, other + [0] * (long - short), *_more_rows(forward.config, long + more, known)]
    rows_RL = torch.tensor(rows, device=device)
    bare = BareForward(forward.call, device)
    try:
        plain_RLV = bare.logits(rows_RL, long + more)
        # A model that chooses among the tokens may by chance choose alike at some lengths.
        cuts = range(2, long + more) if len(rows) > 2 else [long]
        cut_RLV = [bare.logits(rows_RL[:, :length], length) for length in cuts]
    except Exception as error:  # whatever a model's own code raises
        raise ModelError(
            f"{name} cannot be run as a language model: {type(error.__cause__ or error).__name__}: "
            f"{(str(error.__cause__ or error).splitlines() or [''])[0]}",
            hint="does it run by itself, model(input_ids=..., attention_mask=...)?",
        ) from error
    if plain_RLV.shape[-1] > known:
        raise ModelError(
            f"{name} has logits for {plain_RLV.shape[-1]} tokens and embeddings for {known}: what "
            "it draws could not be fed to it",
            hint="resize its embeddings and its output head to the same vocabulary",
        )
    if bool(plain_RLV.isnan().any()):
        return None
    far = (_FAR_IF_ROUNDED if rounded else _FAR) * float(_finite(plain_RLV).abs().max())
    if not all(_near(each, plain_RLV[:, : each.shape[1]], far) for each in cut_RLV):
        raise ModelError(
            f"{name} is no causal language model: what it says of a token depends on later ones "
            "or on how many there are",
            hint="give a decoder; for an encoder such as BERT set is_decoder=True and train it so",
        )
    want_2TV = torch.stack(
        [plain_RLV[0, long - 1 : long + more], plain_RLV[1, short - 1 : short + more]]
    )
    try:
        got_2TV = _continued(forward, [one, other], (long, short), more)
    except Exception:  # its own code does not know this use: then it is not put to it
        return False
    return _near(got_2TV, want_2TV, far)


def _more_rows(config: PreTrainedConfig, length: int, known: int) -> list[list[int]]:
    """For a model that attends to a few tokens of its choice, rows in which it has to choose. Where
    its scores are equal, which it takes depends on how many tokens follow."""
    chosen = getattr(config, "index_topk", None)
    if not isinstance(chosen, int) or chosen >= length:
        return []
    return [[(1 + at * at * by + by) % known for at in range(length)] for by in range(16)]


def _sizes(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Lengths of the two prompts and of what continues them, within the context and before its
    positions change."""
    limits = [length for _, length in switches(config)]
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and context > 0:
        limits.append(context)
    room = min(limits, default=_LONG + _MORE)
    if room >= _LONG + _MORE:
        return _LONG, _SHORT, _MORE
    more = 2 if room >= 4 else 1
    return max(1, room - more), 1, more


def _continued(
    forward: Forward, rows: list[list[int]], lengths: tuple[int, int], more: int
) -> Tensor:
    """Logits after both prompts and after each of the tokens that continue them, [2, more + 1, V]:
    rows change places, several tokens come at once, and then one."""
    device = forward.device
    prompts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    rest = [row[length:] for row, length in zip(rows, lengths, strict=True)]
    swapped = torch.tensor([1, 0], device=device)
    going = forward.prefill(prompts, swapped, more)
    rest_2T = torch.tensor(rest, device=device)[swapped]
    parts = [going.logits_RV[:, None]]
    if more > 1:
        parts.append(forward.extend(going, rest_2T[:, :-1]))
    parts = [part[swapped] for part in parts]
    going.keep(swapped)
    parts.append(forward.extend(going, rest_2T[swapped][:, -1:]))
    return torch.cat(parts, dim=1)


def _near(got_RTV: Tensor, want_RTV: Tensor, far: float) -> bool:
    """Whether the largest difference after a token is small, on average over a row's tokens: one
    token may be routed to another expert by rounding alone."""
    gap_RTV = (got_RTV - want_RTV).abs().masked_fill(got_RTV == want_RTV, 0.0)
    return bool((gap_RTV.float().amax(-1).mean(-1) <= far).all())


def _finite(x: Tensor) -> Tensor:
    return x.masked_fill(~x.isfinite(), 0.0)
