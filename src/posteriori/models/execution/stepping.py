"""A language model token by token: rows of prefixes, for samplers that decide after every token.

Each prompt is run once and its cache shared among its rows. `keep` moves cached keys and values
from row to row and computes nothing again; where a row stays in its place it is not even copied.
Rows are separated by their masks, so prompts of different lengths go together, as in `generate`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from posteriori.errors import ModelError, SamplingError
from posteriori.models.passes.forward import inputs_of
from posteriori.models.warp import Warp

from .running_model import AnyForward, Computing


class CausalRows:
    """R prefixes of a transformers model; see `posteriori.core.protocols.Rows`."""

    def __init__(
        self,
        forward: AnyForward,
        computing: Computing,
        prompt_ids: Sequence[tuple[int, ...]],
        parent_R: Tensor,
        max_new_tokens: int,
        eos: Tensor,
        warp: Warp,
        hidden: bool,
    ) -> None:
        self.prompt_ids = tuple(prompt_ids)
        self._forward, self._computing, self._eos, self._warp = forward, computing, eos, warp
        self._head = forward.head if hidden else None
        self._hidden: Tensor | None = None
        self._position = torch.zeros((), dtype=torch.long, device=forward.device)
        with self._running():
            self._rows: Any = forward.prefill(prompt_ids, parent_R, max_new_tokens)
        if self._hidden is not None:
            self._hidden = self._hidden[parent_R]

    @property
    def logits_RV(self) -> Tensor:
        return self._warp.logits(self._rows.logits_RV, self._position, self._eos)

    @property
    def hidden_RD(self) -> Tensor:
        if self._hidden is None:
            raise _not_kept()
        return self._hidden

    @property
    def token_features_VD(self) -> Tensor:
        """The output head's weight: a token's embedding on the way out."""
        if self._head is None:
            raise _not_kept()
        return cast(Tensor, self._head.weight).detach()

    def keep(self, index_R: Tensor) -> None:
        with torch.no_grad():
            self._rows.move(index_R)
            if self._hidden is not None:
                self._hidden = self._hidden[index_R]

    def extend(self, token_R: Tensor) -> None:
        self._position = self._position + 1
        with self._running():
            self._forward.extend(self._rows, token_R[:, None])

    def branch(self, index_R: Tensor) -> CausalRows:
        other = object.__new__(CausalRows)
        vars(other).update(vars(self))
        other._head, other._hidden = None, None
        other._rows = self._rows.copied()
        with torch.no_grad():
            other._rows.keep(index_R)
        return other

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """No gradient, the right precision, and the head's last input remembered."""
        with torch.no_grad(), self._computing():
            if self._head is None:
                yield
                return
            with inputs_of(self._head) as seen:
                yield
        self._hidden = seen[-1][:, -1].float()


def _not_kept() -> SamplingError:
    return SamplingError(
        "these rows do not keep their hidden states", hint="ask for them: hidden=True"
    )


def output_head(model: nn.Module) -> nn.Module:
    """The layer whose input is the last hidden state. Raises `ModelError` where there is none."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} does not say which layer is its output head, so its hidden "
            "states cannot be read",
            hint="use a sampler or twist that needs none",
        )
    return head
