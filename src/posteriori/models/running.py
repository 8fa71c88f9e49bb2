"""A transformers model as it is run: its adapter, its precision, and the fast ways through it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import ModelError
from . import adapters, memory, weights
from .activations import fused_activations, written_out
from .attention import Float32Attention
from .forward import Forward
from .head import separable_head
from .lora_linear import fused_adapters
from .packing import packed_linears, packing_pays
from .precision import lost_in_padding


class RunningModel:
    """`model` with PEFT adapter `adapter` (None: the bare weights), whose matrix products are in
    `compute_dtype` (None: the weights' own). `model` may be shared, and be left in any state.

    Raises `ModelError` for a model that cannot be run in float64, and is to be.
    """

    def __init__(
        self, model: weights.Model, adapter: str | None, compute_dtype: torch.dtype | None
    ) -> None:
        self.model = model.eval()
        self.adapter = adapter
        self.compute_dtype = compute_dtype or memory.embedding_weight(self.base).dtype
        accepted = inspect.signature(self.base.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._takes_logits_to_keep = "logits_to_keep" in accepted
        # Looked for once: `computing` is entered at every token.
        self._written_out = written_out(model)
        if self.compute_dtype == torch.float64 and lost_in_padding(self.model, self.device):
            raise ModelError(
                f"{type(self.base).__name__} in float64 gives NaN for prompts of different lengths:"
                " its attention works in float32, where the mask of their padding overflows",
                hint='use it in float32 (dtype="float32")',
            )

    @property
    def base(self) -> PreTrainedModel:
        return weights.base_model(self.model)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(self, head: nn.Linear | None = None) -> Forward:
        """To be called within `computing`; `head` is left out where one is given."""
        return Forward(
            self.model,
            self.base.config,
            self._takes_positions,
            self._takes_logits_to_keep,
            self.device,
            head,
        )

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The right adapter is on, dropout is off, and products run in `compute_dtype`."""
        adapters.activate(self.model, self.adapter)
        if self.model.training:
            self.model.eval()
        with contextlib.ExitStack() as ways:
            ways.enter_context(fused_activations(self._written_out))
            if self.compute_dtype != memory.embedding_weight(self.base).dtype:
                ways.enter_context(torch.autocast(self.device.type, dtype=self.compute_dtype))
            yield

    def separable_head(self) -> nn.Linear | None:
        """The output head, where log-probs can be had without the logits."""
        with self.computing():
            return separable_head(self.base)

    @contextlib.contextmanager
    def differentiating(self) -> Iterator[None]:
        """Faster ways to what is differentiated: a trained adapter's layers, and attention."""
        with contextlib.ExitStack() as ways:
            if torch.is_grad_enabled() and self.device.type == "cpu":
                if self.adapter is not None:
                    ways.enter_context(fused_adapters(self.model, self.compute_dtype))
                if self.compute_dtype == torch.bfloat16:
                    ways.enter_context(Float32Attention())
            yield

    def packed(self, rows: int, steps: int) -> contextlib.AbstractContextManager[None]:
        """A faster way to so many steps of so many rows, where it pays."""
        if not packing_pays(self.base.num_parameters(), steps):
            return contextlib.nullcontext()
        return packed_linears(self.model, rows, self.compute_dtype)
