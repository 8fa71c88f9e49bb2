"""A transformers model as it is run: its adapter, its precision, and the fast ways through it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import nn
from transformers import PreTrainedModel

from posteriori.errors import ModelError
from posteriori.models.cpu.activations import fused_activations, written_out
from posteriori.models.cpu.float32_attention import Float32Attention
from posteriori.models.cpu.fused_lora import fused_adapters, fused_products
from posteriori.models.cpu.linear_groups import MakeProducts, Products, each_alone
from posteriori.models.cpu.packing import packed_head, packed_linears, packed_products, packing_pays
from posteriori.models.cpu.precision import lost_in_padding, runs
from posteriori.models.cpu.skip_head import separable_head
from posteriori.models.decoders.decoder_forward import DecoderForward
from posteriori.models.decoders.known import known_decoder
from posteriori.models.passes import memory
from posteriori.models.passes.forward import Forward
from posteriori.models.passes.model_call import ModelCall
from posteriori.models.passes.self_check import can_be_continued, keeps_gradients
from posteriori.models.passes.uncached import BareForward
from posteriori.models.weights import adapters, state
from posteriori.models.weights.model_lock import lock_of

AnyForward = Forward | DecoderForward | BareForward


class RunningModel:
    """`model` with PEFT adapter `adapter` (None: the bare weights), whose matrix products are in
    `compute_dtype` (None: the weights' own). `model` may be shared, and be left in any state.

    Raises `ModelError` for a model that cannot be run in float64, and is to be.
    """

    def __init__(
        self, model: state.Model, adapter: str | None, compute_dtype: torch.dtype | None
    ) -> None:
        self.given = as_it_was(model)
        with lock_of(self.base):
            self.given.eval()
            # Looked for once: `computing` is entered at every token.
            self._written_out = written_out(self.given)
        self.adapter = adapter
        self._handle = adapters.handle_of(self.given, adapter)
        self.compute_dtype = compute_dtype or memory.embedding_weight(self.base).dtype
        self._arguments = frozenset(inspect.signature(self.base.forward).parameters)
        wide = self.compute_dtype == torch.float64
        if wide and runs(self.given, self.device) and lost_in_padding(self.given, self.device):
            raise ModelError(
                f"{type(self.base).__name__} in float64 gives NaN for prompts of different lengths:"
                " its attention works in float32, where the mask of their padding overflows",
                hint='use it in float32 (dtype="float32")',
            )

    @property
    def model(self) -> state.Model:
        """With the adapters that were added to it, whoever added them."""
        return adapters.owner(self.given)

    @property
    def base(self) -> PreTrainedModel:
        return state.base_model(self.given)

    @property
    def device(self) -> torch.device:
        return next(self.given.parameters()).device

    def forward(self, hidden: bool = False, products_of: MakeProducts | None = None) -> AnyForward:
        """To be made and called within `computing`. `hidden` leaves out the head; a known decoder
        multiplies by `products_of`. A model that cannot be continued from a cache, or loses its
        gradient there, is run over whole sequences."""
        decoder = known_decoder(self.model, products_of or self._products_of)
        if decoder is not None:
            return DecoderForward(decoder, self.base.config, self.device, hidden)
        head = getattr(self.base, "get_output_embeddings", lambda: None)()
        name, dtype = type(self.base).__name__, memory.embedding_weight(self.base).dtype
        call = ModelCall(self.model, name, self._arguments, head, hidden)
        cached = Forward(call, self.base.config, self.device, dtype)
        bare = BareForward(call, self.device)
        rounded = dtype.itemsize < 4 or torch.is_autocast_enabled(self.device.type)
        if not can_be_continued(self.base, cached, rounded):
            return bare
        return bare if torch.is_grad_enabled() and not self._keeps_gradients else cached

    @cached_property
    def _keeps_gradients(self) -> bool:
        return keeps_gradients(self.base.config)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The right adapter is on, dropout is off, and products run in `compute_dtype`. No other
        thread runs the model meanwhile."""
        with lock_of(self.base), contextlib.ExitStack() as ways:
            adapters.activate(self.model, self.adapter)
            if self.model.training:
                self.model.eval()
            ways.enter_context(fused_activations(self._written_out))
            if self.compute_dtype != memory.embedding_weight(self.base).dtype:
                ways.enter_context(torch.autocast(self.device.type, dtype=self.compute_dtype))
            yield

    def separable_head(self) -> nn.Linear | None:
        """The output head, where log-probs can be had without the logits."""
        with self.computing():
            return separable_head(self.base)

    @contextlib.contextmanager
    def scoring(self, hidden: bool) -> Iterator[AnyForward]:
        """A pass over whole completions."""
        with self.computing(), contextlib.ExitStack() as ways:
            forward = self.forward(hidden)
            differentiated = torch.is_grad_enabled() and self.device.type == "cpu"
            if differentiated and not isinstance(forward, DecoderForward):
                if self.adapter is not None:
                    ways.enter_context(fused_adapters(self.model, self.compute_dtype))
                if self.compute_dtype == torch.bfloat16:
                    ways.enter_context(Float32Attention())
            yield forward

    @contextlib.contextmanager
    def sampling(self, rows: int, steps: int) -> Iterator[AnyForward]:
        """A pass for so many steps of so many rows, by packed layers where that pays: to be called
        within `computing`, as long as no weight changes."""
        pays = packing_pays(self.base.num_parameters(), steps, self.compute_dtype)

        def packed(*layers: nn.Module) -> Products:
            return packed_products(layers, rows, self.compute_dtype) or self._products_of(*layers)

        with contextlib.ExitStack() as ways:
            with self.computing():
                forward = self.forward(products_of=packed if pays else None)
                if pays and isinstance(forward, DecoderForward):
                    ways.enter_context(packed_head(forward.head, rows))
                elif pays:
                    ways.enter_context(packed_linears(self.model, rows, self.compute_dtype))
            yield forward

    def _products_of(self, *layers: nn.Module) -> Products:
        fused = None
        if self.adapter is not None:
            fused = fused_products(layers, self.compute_dtype)
        return fused or each_alone(*layers)


def as_it_was(model: state.Model) -> state.Model:
    """The model that `torch.compile` was given: compiled, it would be compiled again for every
    number of rows and tokens."""
    return getattr(model, "_orig_mod", model)
