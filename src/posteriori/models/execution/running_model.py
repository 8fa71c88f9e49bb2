"""A transformers model as it is run: its adapter, its precision, and the fast ways through it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import nn
from transformers import PreTrainedModel

from posteriori.distributed import pace
from posteriori.distributed.sharding import is_sharded
from posteriori.distributed.world import current
from posteriori.errors import ModelError
from posteriori.models.cpu.float32_attention import Float32Attention
from posteriori.models.cpu.fused_lora import fused_adapters, fused_products
from posteriori.models.cpu.linear_groups import MakeProducts, Products, each_alone
from posteriori.models.cpu.packing import packed_head, packed_linears, packed_products, packing_pays
from posteriori.models.cpu.precision import lost_in_padding, runs
from posteriori.models.cpu.skip_head import separable_head
from posteriori.models.cpu.weight_cache import WeightCache
from posteriori.models.decoders.decoder_forward import DecoderForward
from posteriori.models.decoders.known import known_decoder
from posteriori.models.passes import memory
from posteriori.models.passes.forward import Forward
from posteriori.models.passes.model_call import ModelCall
from posteriori.models.passes.recompute import recomputed_layers
from posteriori.models.passes.self_check import can_be_continued, keeps_gradients
from posteriori.models.passes.uncached import BareForward
from posteriori.models.weights import state
from posteriori.models.weights.active_adapter import Adapter, check_kind, chosen_adapter

from .model_view import ModelView, Views, unwrapped

AnyForward = Forward | DecoderForward | BareForward

Computing = Callable[[], contextlib.AbstractContextManager[None]]
"""Within it a pass computes."""


class RunningModel:
    """`model` with PEFT adapter `adapter` (`ACTIVE`: the one that it computes with, None: the bare
    weights), whose matrix products are in `compute_dtype` (None: the weights' own). `model` is read
    and never changed. `weight_cache` may be replaced by that of a model on whose weights this one
    stands.

    Raises `ModelError` for a model that cannot be run in float64, and is to be, for what is no
    transformers model, and where several adapters are on at once.
    """

    def __init__(
        self, model: state.Model, adapter: Adapter, compute_dtype: torch.dtype | None
    ) -> None:
        self.model: state.Model = unwrapped(model)
        check_kind(self.model)
        self.adapter = chosen_adapter(self.model, adapter)
        self.weight_cache = WeightCache()
        self._views = Views(self.model, self.adapter)
        self._number: int | None = None
        self.recomputes = False
        """Whether layers are run again on the way back: gradient checkpointing."""
        if compute_dtype is not None and not isinstance(compute_dtype, torch.dtype):
            raise ModelError(
                f"compute_dtype={compute_dtype!r} is no torch.dtype",
                hint="write torch.bfloat16, or leave it out",
            )
        self.compute_dtype = compute_dtype or memory.embedding_weight(self.base).dtype
        self._arguments = frozenset(inspect.signature(self.base.forward).parameters)
        if self.compute_dtype == torch.float64 and self._is_lost_in_padding():
            raise ModelError(
                f"{type(self.base).__name__} in float64 gives NaN for prompts of different lengths:"
                " its attention works in float32, where the mask of their padding overflows",
                hint='use it in float32 (dtype="float32")',
            )

    def _is_lost_in_padding(self) -> bool:
        with self._views.one() as view, self._views.running(view):
            return runs(view.model, self.device) and lost_in_padding(view.model, self.device)

    @property
    def base(self) -> PreTrainedModel:
        return state.base_model(self.model)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _forward(
        self,
        view: ModelView,
        hidden: bool = False,
        products_of: MakeProducts | None = None,
        recomputes: bool = False,
    ) -> AnyForward:
        """To be made and called within `computing`. `hidden` leaves out the head; a known decoder
        multiplies by `products_of`. A model that cannot be continued from a cache, or loses its
        gradient there, is run over whole sequences."""
        decoder = known_decoder(view.model, view.facts, products_of or self._products_of)
        if decoder is not None:
            if recomputes:
                decoder = replace(decoder, again=contextlib.nullcontext)
            return DecoderForward(decoder, view.base.config, self.device, hidden)
        head = getattr(view.base, "get_output_embeddings", lambda: None)()
        name, dtype = type(view.base).__name__, memory.embedding_weight(view.base).dtype
        call = ModelCall(view.model, name, self._arguments, head, hidden, self._turn)
        cached = Forward(call, view.base.config, self.device, dtype)
        bare = BareForward(call, self.device)
        rounded = dtype.itemsize < 4 or torch.is_autocast_enabled(self.device.type)
        if not can_be_continued(view.base, view.facts, cached, rounded) or recomputes:
            return bare
        return bare if torch.is_grad_enabled() and not self._keeps_gradients else cached

    def keep_pace(self) -> None:
        """To be called by all processes before a piece of work that they share out: a sharded model
        makes as many passes in all of them."""
        if self._number is not None or current() is None or not is_sharded(self.model):
            return
        # What is found out by passes is found out by all together.
        for with_gradient in (False, True):
            with torch.set_grad_enabled(with_gradient), self.scoring(hidden=False):
                pass
        self._number = pace.join(self)

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        return pace.turn(self._number)

    def idle_pass(self) -> torch.Tensor:
        """The logits of one token, which are not read."""
        ids_11 = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with self._views.one() as view, self.computing(view):
            ones_11 = torch.ones_like(ids_11)
            return view.model(input_ids=ids_11, attention_mask=ones_11, use_cache=False).logits

    @cached_property
    def _keeps_gradients(self) -> bool:
        return keeps_gradients(self.base.config)

    @contextlib.contextmanager
    def computing(self, view: ModelView) -> Iterator[None]:
        """Products run in `compute_dtype`."""
        with self._views.running(view):
            if self.compute_dtype == memory.embedding_weight(self.base).dtype:
                yield
                return
            with torch.autocast(self.device.type, dtype=self.compute_dtype):
                yield

    def separable_head(self) -> nn.Linear | None:
        """The output head, where log-probs can be had without the logits."""
        with self._views.one() as view, self.computing(view):
            return separable_head(view.base, view.facts) if view.is_own else None

    @contextlib.contextmanager
    def scoring(self, hidden: bool) -> Iterator[AnyForward]:
        """A pass over whole completions."""
        with contextlib.ExitStack() as ways:
            view = ways.enter_context(self._views.one())
            ways.enter_context(self.computing(view))
            recomputes = self.recomputes and torch.is_grad_enabled()
            forward = self._forward(view, hidden and view.is_own, recomputes=recomputes)
            if recomputes and not isinstance(forward, DecoderForward):
                again = partial(self._views.running, view)
                ways.enter_context(recomputed_layers(view.base, again))
                yield forward
                return
            differentiated = torch.is_grad_enabled() and self.device.type == "cpu"
            if differentiated and not isinstance(forward, DecoderForward):
                if self.adapter is not None and view.is_own:
                    ways.enter_context(fused_adapters(view.model, self.compute_dtype))
                if self.compute_dtype == torch.bfloat16:
                    ways.enter_context(Float32Attention())
            yield forward

    @contextlib.contextmanager
    def sampling(self, rows: int, steps: int) -> Iterator[tuple[AnyForward, Computing]]:
        """A pass for so many steps of so many rows, by packed layers where that pays, as long as no
        weight changes; its prefill and its steps are to be made within the second of what it
        gives."""
        pays = packing_pays(self.base.num_parameters(), steps, self.compute_dtype)

        def packed(*layers: nn.Module) -> Products:
            return packed_products(layers, rows, self.compute_dtype) or self._products_of(*layers)

        with self._views.one() as view, contextlib.ExitStack() as ways:
            pays = pays and view.is_own
            with self.computing(view):
                forward = self._forward(view, products_of=packed if pays else None)
                if pays and isinstance(forward, DecoderForward):
                    ways.enter_context(packed_head(forward.head, rows, self.weight_cache))
                elif pays:
                    ways.enter_context(
                        packed_linears(view.model, rows, self.compute_dtype, self.weight_cache)
                    )
            yield forward, partial(self.computing, view)

    def _products_of(self, *layers: nn.Module) -> Products:
        fused = None
        if self.adapter is not None:
            fused = fused_products(layers, self.compute_dtype)
        return fused or each_alone(*layers)
