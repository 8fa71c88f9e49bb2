"""A pass of a known decoder, as `models.passes.forward.Forward` makes it of any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from posteriori.models.cpu.linear_groups import each_alone
from posteriori.models.passes.forward import Prefilled
from posteriori.models.passes.kv_cache import cache_with_room
from posteriori.models.text.prompt_tokens import left_padded, positions

from .attention import attend, bias_of
from .decoder import Decoder


@dataclass(frozen=True)
class DecoderForward:
    """A decoder on the CPU. With `hidden`, hidden states [.., D] come in place of logits."""

    decoder: Decoder
    config: PreTrainedConfig
    device: torch.device
    hidden: bool = False

    def prefill(
        self, prompt_ids: Sequence[Sequence[int]], parent_R: Tensor, room: int = 0
    ) -> Prefilled:
        """As `Forward.prefill`."""
        ids_PL, mask_PL = left_padded(prompt_ids, self.device)
        cache = cache_with_room(self.config, room, self.device, as_it_is=True)
        bias_P1LL = _causal_bias(mask_PL.bool(), self.decoder.dtype)
        hidden_PLD = self._through(ids_PL, positions(mask_PL), bias_P1LL, cache)
        rows = Prefilled(cache, mask_PL, mask_PL.sum(-1), self._out(hidden_PLD[:, -1:])[:, 0])
        rows.keep(parent_R)
        return rows

    def extend(self, rows: Prefilled, ids_RT: Tensor) -> Tensor:
        """As `Forward.extend`."""
        width = ids_RT.shape[1]
        position_RT = rows.grow(width)
        bias_R1TL = _continued_bias(rows.mask_RL.bool(), width, self.decoder.dtype)
        out_RTV = self._out(self._through(ids_RT, position_RT, bias_R1TL, rows.cache))
        rows.logits_RV = out_RTV[:, -1]
        return out_RTV

    def continued(
        self, prompt_ids: Sequence[Sequence[int]], parent_N: Tensor, ids_NT: Tensor
    ) -> list[Tensor]:
        """As `Forward.continued`: prompts and completions go through each layer together, and a
        completion attends to its prompt's keys and to its own."""
        return [self._out(self.states(prompt_ids, parent_N, ids_NT))]

    def states(
        self, prompt_ids: Sequence[Sequence[int]], parent_N: Tensor, ids_NT: Tensor
    ) -> Tensor:
        """As `Forward.states`."""
        ids_PL, mask_PL = left_padded(prompt_ids, self.device)
        (prompts, longest), (rows, tokens) = ids_PL.shape, ids_NT.shape
        position_NT = mask_PL.sum(-1)[parent_N, None] + torch.arange(tokens, device=self.device)
        bias_P1LL = _causal_bias(mask_PL.bool(), self.decoder.dtype)
        mask_NL = nn.functional.pad(mask_PL[parent_N], (0, tokens), value=1)
        bias_N1TL = _continued_bias(mask_NL.bool(), tokens, self.decoder.dtype)
        shapes = ((prompts, longest), (rows, tokens))

        def attend_both(_layer: int, q_MHE: Tensor, k_MGE: Tensor, v_MGE: Tensor) -> Tensor:
            q_PLHE, q_NTHE = _parted(q_MHE, *shapes)
            k_PLGE, k_NTGE = _parted(k_MGE, *shapes)
            v_PLGE, v_NTGE = _parted(v_MGE.to(k_MGE.dtype), *shapes)
            k_PGLE, v_PGLE = k_PLGE.transpose(1, 2), v_PLGE.transpose(1, 2)
            prompt_PLA = attend(q_PLHE, k_PGLE, v_PGLE, bias_P1LL)
            if not tokens:
                return prompt_PLA.flatten(0, 1)
            k_NGLE = torch.cat([k_PGLE[parent_N], k_NTGE.transpose(1, 2)], dim=2)
            v_NGLE = torch.cat([v_PGLE[parent_N], v_NTGE.transpose(1, 2)], dim=2)
            completion_NTA = attend(q_NTHE, k_NGLE, v_NGLE, bias_N1TL)
            return torch.cat([prompt_PLA.flatten(0, 1), completion_NTA.flatten(0, 1)])

        hidden_MD = self.decoder.hidden(
            torch.cat([ids_PL.flatten(), ids_NT.flatten()]),
            torch.cat([positions(mask_PL).flatten(), position_NT.flatten()]),
            attend_both,
        )
        hidden_PLD, hidden_NTD = _parted(hidden_MD, *shapes)
        return torch.cat([hidden_PLD[parent_N, -1:], hidden_NTD], dim=1)

    @property
    def head(self) -> nn.Module:
        return self.decoder.head

    def _through(
        self, ids_RT: Tensor, position_RT: Tensor, bias_R1TL: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Hidden states [R, T, D]; keys and values go into the cache."""
        rows, tokens = ids_RT.shape

        def attend_to_cache(layer: int, q_MHE: Tensor, k_MGE: Tensor, v_MGE: Tensor) -> Tensor:
            q_RTHE, k_RTGE, v_RTGE = (
                each.unflatten(0, (rows, tokens)) for each in (q_MHE, k_MGE, v_MGE)
            )
            k_RGLE, v_RGLE = cast(DynamicLayer, cache.layers[layer]).update(
                k_RTGE.transpose(1, 2), v_RTGE.transpose(1, 2).to(k_MGE.dtype)
            )
            return attend(q_RTHE, k_RGLE, v_RGLE, bias_R1TL).flatten(0, 1)

        hidden_MD = self.decoder.hidden(ids_RT.flatten(), position_RT.flatten(), attend_to_cache)
        return hidden_MD.unflatten(0, (rows, tokens))

    def _out(self, hidden_RTD: Tensor) -> Tensor:
        return hidden_RTD if self.hidden else each_alone(self.decoder.head)(hidden_RTD)[0]


def _parted(
    x_MKE: Tensor, prompts: tuple[int, int], completions: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The prompts' tokens [P, L, ..] and the completions' [N, T, ..]."""
    first = prompts[0] * prompts[1]
    return x_MKE[:first].unflatten(0, prompts), x_MKE[first:].unflatten(0, completions)


def _causal_bias(mask_PL: Tensor, dtype: torch.dtype) -> Tensor:
    """[P, 1, L, L]: a token looks at itself and at what is no padding before it."""
    length = mask_PL.shape[1]
    itself_LL = torch.eye(length, dtype=torch.bool, device=mask_PL.device)
    before_PLL = mask_PL[:, None].expand(-1, length, -1).tril()
    return bias_of(before_PLL | itself_LL, dtype)[:, None]


def _continued_bias(mask_RL: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """[R, 1, T, L]: the last T tokens look at what is there before them, and causally at each
    other."""
    allowed_RTL = mask_RL[:, None].expand(-1, tokens, -1)
    if tokens > 1:
        allowed_RTL = allowed_RTL.tril(mask_RL.shape[1] - tokens)
    return bias_of(allowed_RTL, dtype)[:, None]
