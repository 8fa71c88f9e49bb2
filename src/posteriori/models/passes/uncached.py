"""Passes without padding on the left and without a cache: right for every causal model, and slow.

Some models count padding as text, or start anew where several tokens follow a cache. For these
every pass runs whole sequences from their first token. Shorter rows are filled up on the right,
where a causal model does not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .forward import inputs_of
from .model_call import ModelCall


@dataclass
class BareRows:
    """R rows so far: their tokens [R, L], filled up on the right with zeros, how many each has [R],
    and the next logits [R, V]."""

    tokens_RL: Tensor
    length_R: Tensor
    logits_RV: Tensor

    def keep(self, index_R: Tensor) -> None:
        """Row i becomes what row `index_R[i]` was; rows may repeat or vanish."""
        self.tokens_RL = self.tokens_RL[index_R]
        self.length_R = self.length_R[index_R]
        self.logits_RV = self.logits_RV[index_R]

    def move(self, index_R: Tensor) -> None:
        self.keep(index_R)

    def copied(self) -> BareRows:
        return replace(self)


@dataclass(frozen=True)
class BareForward:
    """Any causal transformers model, with the methods of `forward.Forward`."""

    call: ModelCall
    device: torch.device

    @property
    def hidden(self) -> bool:
        return self.call.hidden

    @property
    def head(self) -> nn.Module | None:
        return self.call.head

    def logits(self, ids_RL: Tensor, keep: int) -> Tensor:
        """Logits (or hidden states) [R, keep, V] at the last `keep` columns."""
        return self.call(ids_RL, torch.ones_like(ids_RL), keep)

    def prefill(
        self,
        prompt_ids: Sequence[Sequence[int]],
        parent_R: Tensor,
        room: int = 0,  # noqa: ARG002 - there is no cache to make room in
    ) -> BareRows:
        """As `Forward.prefill`."""
        ids_PL, length_P = right_padded(prompt_ids, self.device)
        rows = BareRows(ids_PL, length_P, self._after(ids_PL, length_P, 1)[:, 0])
        rows.keep(parent_R)
        return rows

    def extend(self, rows: BareRows, ids_RT: Tensor) -> Tensor:
        """As `Forward.extend`."""
        rows.tokens_RL = _appended(rows.tokens_RL, rows.length_R, ids_RT)
        rows.length_R = rows.length_R + ids_RT.shape[1]
        out_RTV = self._after(rows.tokens_RL, rows.length_R, ids_RT.shape[1])
        rows.logits_RV = out_RTV[:, -1]
        return out_RTV

    def continued(
        self, prompt_ids: Sequence[Sequence[int]], parent_N: Tensor, ids_NT: Tensor
    ) -> list[Tensor]:
        """As `Forward.continued`."""
        return [self._after(*self._joined(prompt_ids, parent_N, ids_NT), ids_NT.shape[1] + 1)]

    def states(
        self, prompt_ids: Sequence[Sequence[int]], parent_N: Tensor, ids_NT: Tensor
    ) -> Tensor:
        """As `Forward.states`."""
        assert self.head is not None
        ids_NL, length_N = self._joined(prompt_ids, parent_N, ids_NT)
        with inputs_of(self.head) as seen:
            self.logits(ids_NL, ids_NL.shape[1])
        return _last(seen[-1], ids_NL.shape[1], length_N, ids_NT.shape[1] + 1)

    def _joined(
        self, prompt_ids: Sequence[Sequence[int]], parent_N: Tensor, ids_NT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Every row's prompt with its T tokens behind it, and their lengths."""
        ids_PL, length_P = right_padded(prompt_ids, self.device)
        length_N = length_P[parent_N]
        return _appended(ids_PL[parent_N], length_N, ids_NT), length_N + ids_NT.shape[1]

    def _after(self, ids_RL: Tensor, length_R: Tensor, count: int) -> Tensor:
        """What comes after each of the last `count` tokens of every row, [R, count, V]."""
        width = ids_RL.shape[1]
        keep = width - int(length_R.min()) + count
        return _last(self.logits(ids_RL, keep), width, length_R, count)


def _last(out_RKV: Tensor, width: int, length_R: Tensor, count: int) -> Tensor:
    """Of the last K of `width` columns those of each row's last `count` tokens."""
    first_R = length_R - count - (width - out_RKV.shape[1])
    column_RC = first_R[:, None] + torch.arange(count, device=out_RKV.device)
    return out_RKV.gather(1, column_RC[..., None].expand(-1, -1, out_RKV.shape[-1]))


def _appended(ids_RL: Tensor, length_R: Tensor, ids_RT: Tensor) -> Tensor:
    wider_RL = nn.functional.pad(ids_RL, (0, ids_RT.shape[1]))
    column_RT = length_R[:, None] + torch.arange(ids_RT.shape[1], device=ids_RL.device)
    return wider_RL.scatter(1, column_RT, ids_RT)


def right_padded(
    prompt_ids: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Prompts as one tensor [P, L] with zeros behind them, and their lengths [P]."""
    width = max(len(ids) for ids in prompt_ids)
    rows = [[*ids, *[0] * (width - len(ids))] for ids in prompt_ids]
    lengths = [len(ids) for ids in prompt_ids]
    return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)
