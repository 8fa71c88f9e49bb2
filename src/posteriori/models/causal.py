"""`CausalLM`: any transformers causal language model as a distribution over completions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from posteriori.core.completions import Completions
from posteriori.core.journal.files import writing
from posteriori.core.occurrence import Prompt
from posteriori.core.settings.training import LoraSettings
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ModelError
from posteriori.models.cpu.precision import lost_in_padding, runs
from posteriori.models.execution.running_model import RunningModel
from posteriori.models.weights.accumulators import keep_accumulators
from posteriori.models.weights.facts import share_facts

from .causal_drawing import CausalDrawing
from .passes import memory
from .text.prompt_tokens import (
    build_completions,
    check_tokenizer,
    end_tokens,
    start_token,
)
from .text.texts import token_before
from .warp import Warp
from .weights import adapters
from .weights import state as state_module
from .weights.active_adapter import ACTIVE, Adapter
from .weights.injected import has_adapters_inside
from .weights.whole_model import save


class CausalLM(CausalDrawing):
    """A causal language model of transformers, as a distribution over outcomes.

        pi(y|c) = prod_t softmax(f(c, y_<t))[y_t]

    Dropout is off, whatever the mode: the log-probs have to be those of the distribution that
    draws. `model` is read and never changed: its mode, its modules and what hangs on them stay as
    they are, and threads may use it at once, this object included. Sampling settings of the
    checkpoint (a generation config's temperature or repetition penalty) are ignored. Log-probs are
    computed from the logits in float32 at least, and come as float64 in nats. Its methods are those
    of `posteriori.core.protocols`.

    Args:
        model: a model of transformers, or a PEFT model around one.
        tokenizer: its tokenizer.
        compute_dtype: type of the matrix products (autocast) over master weights; None: that of the
            weights.
        adapter: the PEFT adapter that is part of this distribution; left out, the one that is
            active when the model is handed over; None: the bare weights. Several `CausalLM` may
            share one PEFT model, each with an adapter of its own.
        warp: changes the distribution (temperature, top-k, top-p), in draws and log-probs alike.
        memory_gib: memory for logits and keys and values, in GiB, at a time; left out, 1.5 on the
            CPU, and 0.4 of what is free elsewhere.

    Raises:
        ModelError: for what is no causal language model of transformers, and for a PEFT model with
            several adapters on at once.

    Example:
        >>> import torch
        >>> lm = po.load("tiny")  # a CausalLM; po.CausalLM(model, tokenizer) around your own
        >>> drawn = lm.sample(["The food"], 2, 4, torch.Generator().manual_seed(0))
        >>> lm.log_prob(drawn).shape
        torch.Size([2])
    """

    @named_arguments
    def __init__(
        self,
        model: state_module.Model,
        tokenizer: PreTrainedTokenizerBase,
        *,
        compute_dtype: torch.dtype | None = None,
        adapter: Adapter = ACTIVE,
        warp: Warp | None = None,
        memory_gib: float | None = None,
    ) -> None:
        check_tokenizer(tokenizer)
        self._run = RunningModel(model, adapter, compute_dtype)
        keep_accumulators(model)
        self.tokenizer = tokenizer
        self.warp = warp or Warp()
        self.memory_gib = memory.memory_for(self.device) if memory_gib is None else memory_gib
        self._footprint = memory.Footprint()
        self._eos_token_ids = end_tokens(tokenizer, self._run.base, self.vocab_size)
        self._start = start_token(tokenizer, self._run.base.config)
        self._before = token_before(tokenizer)

    def __repr__(self) -> str:
        number = sum(each.numel() for each in self._run.base.parameters())
        adapter = "" if self.adapter is None else f", adapter '{self.adapter}'"
        return f"CausalLM({type(self._run.base).__name__}, {number:,} parameters{adapter})"

    @property
    def model(self) -> state_module.Model:
        return self._run.model

    @property
    def adapter(self) -> str | None:
        return self._run.adapter

    @property
    def module(self) -> torch.nn.Module:
        """What an optimiser trains and accelerate prepares: the adapter's parameters alone, where
        there is one."""
        if self.adapter is None:
            return self.model
        return adapters.OwnParameters(state_module.adapter_parameters(self.model, self.adapter))

    @property
    def vocab_size(self) -> int:
        return memory.num_tokens(self._run.base)

    def completions(
        self,
        prompts: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
    ) -> Completions:
        """Raises `OutcomeError` for ids outside the vocabulary or after an end of sequence."""
        return build_completions(
            prompts,
            completion_ids,
            encode=self.encode,
            decode=self.decode,
            eos_token_ids=self.eos_token_ids,
            vocab_size=self.vocab_size,
            max_new_tokens=max_new_tokens,
            device=self.device,
        )

    def in_float64(self) -> CausalLM:
        """A copy whose arithmetic is float64, where it is float32 now; otherwise this model.

        A reduced-precision model is left as it is: there rounding is part of the distribution. So
        is one whose attention is float32 whatever its weights are (Bloom).
        """
        if self.compute_dtype != torch.float32 or state_module.quantisation(self.model):
            return self
        copied = state_module.own_copy(self.model).double()
        state_module.without_fused_experts(copied)
        if not runs(copied, self.device) or lost_in_padding(copied, self.device):
            return self
        return self._like(copied, self.adapter, torch.float64)

    def as_policy(self, kind: Literal["full", "lora"], lora: LoraSettings, seed: int) -> CausalLM:
        """A trainable policy that starts as this very distribution.

        `full`: a copy with float32 master weights. `lora`: an adapter on these same weights; this
        model goes on without it. Raises `ModelError` for a LoRA policy on a model that is itself
        an adapter, and for a model that is warped or quantised.
        """
        if self.warp != Warp():
            raise ModelError(
                "a warped model cannot be trained: its log-prob is not that of its weights",
                hint="load the prior without temperature, top_k, top_p and min_new_tokens",
            )
        state_module.check_not_sharded(self.model)
        state_module.check_trainable(self.model, kind)
        if kind == "full":
            return self._like(state_module.full_copy(self.model, self.adapter), None)
        if self.adapter is not None or has_adapters_inside(self.model):
            raise ModelError(
                "a LoRA policy needs plain weights below it, and this model is an adapter",
                hint="load it with posteriori.load(path, merge_adapter=True)",
            )
        adapted = adapters.with_adapter(self.model, lora, seed)
        share_facts(state_module.base_model(adapted), self._run.base)
        return self._like(adapted, adapters.ADAPTER)

    def caching_frozen_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within it, what is computed from weights that are not trained is computed once, for this
        model and the policies that were made of it: for the length of a run."""
        return self._run.weight_cache.open()

    def trained_state(self) -> dict[str, Tensor]:
        """The adapter's tensors, or all weights of a model without one."""
        return state_module.trained_state(self.model, self.adapter)

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        state_module.load_trained_state(self.model, self.adapter, state)

    def save_pretrained(self, directory: Path | str) -> None:
        """Model (or adapter) and tokenizer, as plain transformers and PEFT load them; where weights
        are cut over processes all call it, and the first writes. Raises `CheckpointError` where
        they cannot be written."""
        with writing("the model", Path(directory)):
            save(self.model, self.adapter, Path(directory), self.tokenizer)

    def token_power(self, alpha: float) -> CausalLM:
        """Raises `ModelError` under top-p."""
        if self.warp.top_p < 1:
            raise ModelError(
                f"the model is cut at top_p={self.warp.top_p}, which leaves other tokens once the "
                "probabilities are raised to a power",
                hint="use one without top_p, or with top_k",
            )
        return self.warped(temperature=self.warp.temperature / alpha)

    def warped(self, **settings: float) -> CausalLM:
        """The same model with its next-token distributions changed by a `Warp`."""
        other = self._like(self.model, self.adapter)
        other.warp = Warp(**{**asdict(self.warp), **settings})
        return other

    def _like(
        self, model: state_module.Model, adapter: str | None, dtype: torch.dtype | None = None
    ) -> CausalLM:
        other = CausalLM(
            model,
            self.tokenizer,
            compute_dtype=dtype or self.compute_dtype,
            adapter=adapter,
            warp=self.warp,
            memory_gib=self.memory_gib,
        )
        other._run.weight_cache = self._run.weight_cache
        return other
