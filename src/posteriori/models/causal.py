"""`CausalLM`: any transformers causal language model as a distribution over completions."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import LoraSettings
from ..errors import ModelError
from ..types import Completions, Prompt
from ..watching import advance
from . import adapters, memory, weights
from .activations import fused_activations
from .attention import Float32Attention
from .batches import in_order, length_sorted_batches
from .features import prefix_features
from .forward import Forward
from .generate import Rows, generate
from .head import separable_head
from .lora_linear import fused_adapters
from .packing import packed_linears, packing_pays
from .prompts import (
    build_completions,
    check_length,
    encode_prompt,
    end_tokens,
    start_token,
)
from .score import token_log_prob
from .stepping import CausalRows, output_head
from .suffix import distinct_prefixes, splice
from .warp import Warp


class CausalLM:
    """pi(y|c) = prod_t softmax(f(c, y_<t))[y_t], over the outcome space of `posteriori.types`.

    `model` and `tokenizer` are plain transformers objects. Dropout is off, whatever the mode: the
    log-probs have to be those of the distribution that draws. Sampling settings of the checkpoint
    (a generation config's temperature or repetition penalty) are ignored; to change the
    distribution pass a `Warp`, which counts in `log_prob` as well.

    `compute_dtype` other than the weights' own runs the matrix products in it (autocast) over
    master weights, which is how a bfloat16 policy is trained. Log-probs are computed from the
    logits in float32 at least and come as float64.

    `adapter` names the PEFT adapter that is part of this distribution (None: the bare weights).
    Several `CausalLM` may share one PEFT model, each with an adapter of its own.
    """

    def __init__(
        self,
        model: weights.Model,
        tokenizer: PreTrainedTokenizerBase,
        *,
        compute_dtype: torch.dtype | None = None,
        adapter: str | None = None,
        warp: Warp | None = None,
        memory_gib: float = 1.5,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.adapter = adapter
        self.warp = warp or Warp()
        self.memory_gib = memory_gib
        self.compute_dtype = compute_dtype or memory.embedding_weight(self._base).dtype
        self._eos_token_ids = end_tokens(tokenizer, self._base)
        self._start = start_token(tokenizer, self._base.config)
        accepted = inspect.signature(self._base.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._takes_logits_to_keep = "logits_to_keep" in accepted

    @property
    def module(self) -> torch.nn.Module:
        """What an optimiser trains and accelerate prepares."""
        return self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._eos_token_ids

    @property
    def vocab_size(self) -> int:
        return memory.embedding_weight(self._base).shape[0]

    @property
    def context_length(self) -> int | None:
        """How many tokens the model can take, prompt included; None where it names no limit."""
        return getattr(self._base.config, "max_position_embeddings", None)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt; an empty one starts from BOS."""
        return encode_prompt(self.tokenizer, prompt, self._start)

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Texts without special tokens."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Completions:
        """y ~ pi(.|c): `num_samples` completions a prompt, prompt by prompt, with log pi(y|c).

        Raises `PromptError` where a prompt does not fit. With the same generator state the draws
        are the same, whatever else is in the batch, up to rounding.
        """
        prompt_ids = tuple(self.encode(prompt) for prompt in prompts)
        for prompt, ids in zip(prompts, prompt_ids, strict=True):
            check_length(prompt, ids, max_new_tokens, self.context_length)
        rows = [p for p in range(len(prompt_ids)) for _ in range(num_samples)]
        out = self._generate(prompt_ids, rows, max_new_tokens, generator)
        width = int(out.lengths_R.max())
        return Completions(
            prompt_set=tuple(prompts),
            prompt_ids=prompt_ids,
            prompt_index_N=torch.tensor(rows, device=self.device),
            tokens_NL=out.tokens_RT[:, :width],
            lengths_N=out.lengths_R,
            ended_N=out.ended_R,
            max_new_tokens=max_new_tokens,
            decode=self.decode,
            token_log_prob_NL=out.log_prob_RT[:, :width],
        )

    def resample_suffix(
        self, completions: Completions, start_N: Tensor, generator: torch.Generator | None = None
    ) -> Completions:
        """y' = (y_1 .. y_start, fresh tokens), fresh ~ pi(. | c, y_1 .. y_start).

        See `posteriori.protocols.LanguageModel`. Equal prefixes are run once.
        """
        prefixes, rows = distinct_prefixes(completions, start_N)
        budget = completions.max_new_tokens
        for prompt, ids in zip(completions.prompt_set, completions.prompt_ids, strict=True):
            check_length(prompt, ids, budget, self.context_length)
        out = self._generate(prefixes, rows, budget, generator, start_N)
        return splice(completions, start_N, out)

    @contextlib.contextmanager
    def stepping(
        self,
        prompts: Sequence[Prompt],
        parent_R: Tensor,
        max_new_tokens: int,
        hidden: bool = False,
    ) -> Iterator[CausalRows]:
        """Rows to be extended token by token: row r continues prompt `parent_R[r]`.

        Raises `PromptError` where a prompt does not fit.
        """
        prompt_ids = [self.encode(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, prompt_ids, strict=True):
            check_length(prompt, ids, max_new_tokens, self.context_length)
        with contextlib.ExitStack() as stack:
            if self.adapter is None:
                # Packed layers would hold this adapter where another one's turn comes in between.
                with self._computing():
                    stack.enter_context(self._packed(len(parent_R), max_new_tokens))
            yield CausalRows(
                self._forward(),
                self._computing,
                prompt_ids,
                parent_R.to(self.device),
                torch.tensor(self.eos_token_ids, device=self.device),
                self.warp,
                output_head(self._base) if hidden else None,
            )

    def rows_at_once(self, prompts: Sequence[Prompt], max_new_tokens: int) -> int:
        """How many rows fit in `memory_gib`, each with its cache."""
        longest = max(len(self.encode(prompt)) for prompt in prompts) + max_new_tokens
        return memory.rows_for_sampling(self._base, longest, self.memory_gib)

    def log_prob(self, completions: Completions) -> Tensor:
        """log pi(y|c), float64 [N], nats per completion, the end-of-sequence token included.

        Differentiable where gradients are enabled. Raises `PromptError` where a completion and its
        prompt exceed the model's context.
        """
        return self.token_log_prob(completions).sum(-1)

    def token_log_prob(self, completions: Completions) -> Tensor:
        """log pi(y_t|c, y_<t), float64 [N, L], zero beyond a completion's end; as `log_prob`."""
        longest_P = torch.zeros(len(completions.prompt_ids), dtype=torch.long, device=self.device)
        longest_P.scatter_reduce_(0, completions.prompt_index_N, completions.lengths_N, "amax")
        for at, longest in enumerate(longest_P.tolist()):
            if longest:
                prompt, ids = completions.prompt_set[at], completions.prompt_ids[at]
                check_length(prompt, ids, longest, self.context_length)
        batches = self.micro_batches(completions)
        eos = torch.tensor(self.eos_token_ids, device=self.device)
        forward = replace(self._forward(), head=self._separable_head())
        with self._computing(), self._differentiating():
            parts = []
            for batch in batches:
                part = token_log_prob(forward, completions.select(batch), eos, self.warp)
                parts.append(part.double())
                advance(len(batch))
        return in_order(parts, batches, completions.tokens_NL.shape[1])

    def features(self, completions: Completions) -> Tensor:
        """h(c, y_<t), what goes into the output head, float32 [N, L, D]; as `prefix_features`."""
        with torch.no_grad():
            batches = self.micro_batches(completions)
        forward = replace(self._forward(), head=self._separable_head())
        head = self._base.get_output_embeddings()
        with self._computing():
            parts = [prefix_features(forward, head, completions.select(b)) for b in batches]
        return in_order(parts, batches, completions.tokens_NL.shape[1])

    def micro_batches(self, completions: Completions, together: int = 1) -> list[Tensor]:
        """Positions that cover the completions once, in groups of similar length that fit.

        So many neighbouring completions (a pair: 2) stay in one group.
        """
        cells = memory.cells_for_scoring(
            self._base,
            self.memory_gib,
            torch.is_grad_enabled(),
            keeps_logits=self._separable_head() is None,
            compute_bytes=self.compute_dtype.itemsize,
        )
        if together == 1:
            return length_sorted_batches(completions, cells)
        first_U = torch.arange(0, len(completions), together)
        longest_U = first_U + completions.lengths_N.view(-1, together).argmax(-1).cpu()
        units = length_sorted_batches(completions.select(longest_U), max(1, cells // together))
        return [(first_U[unit][:, None] + torch.arange(together)).flatten() for unit in units]

    def completions(
        self,
        prompts: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
    ) -> Completions:
        """Completions from outside: one prompt a completion, or a single prompt for all.

        Raises `OutcomeError` for ids outside the vocabulary or after an end of sequence.
        """
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

        A reduced-precision model is left as it is: there rounding is part of the distribution.
        """
        if self.compute_dtype != torch.float32:
            return self
        copied = copy.deepcopy(self.model).double()
        return self._like(copied, self.adapter, torch.float64)

    def as_policy(self, kind: Literal["full", "lora"], lora: LoraSettings, seed: int) -> CausalLM:
        """A trainable policy that starts as this very distribution.

        `full`: a copy with float32 master weights. `lora`: an adapter on these same weights; this
        model goes on without it. Raises `ModelError` for a LoRA policy on a model that is itself
        an adapter, or one that is warped.
        """
        if self.warp != Warp():
            raise ModelError(
                "a warped model cannot be trained: its log-prob is not that of its weights",
                hint="load the prior without temperature, top_k, top_p and min_new_tokens",
            )
        if kind == "full":
            return self._like(weights.full_copy(self.model, self.adapter), None)
        if self.adapter is not None:
            raise ModelError(
                "a LoRA policy needs plain weights below it, and this model is an adapter",
                hint="load it with posteriori.load(path, merge_adapter=True)",
            )
        self.model, name = adapters.add_adapter(self.model, lora, seed)
        return self._like(self.model, name)

    def trained_state(self) -> dict[str, Tensor]:
        """The adapter's tensors, or all weights of a model without one."""
        return weights.trained_state(self.model, self.adapter)

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `trained_state` returned, bit for bit."""
        weights.load_trained_state(self.model, self.adapter, state)

    def save_pretrained(self, directory: Path | str) -> None:
        """Model (or adapter) and tokenizer, as plain transformers and PEFT load them."""
        weights.save(self.model, self.adapter, Path(directory))
        self.tokenizer.save_pretrained(directory)

    def token_power(self, alpha: float) -> CausalLM:
        """pi(y_t|c, y_<t)^alpha, renormalised token by token. Raises `ModelError` under top-p."""
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

    def _generate(
        self,
        prompt_ids: Sequence[tuple[int, ...]],
        rows: list[int],
        max_new_tokens: int,
        generator: torch.Generator | None,
        offset_R: Tensor | None = None,
    ) -> Rows:
        """Row i goes on from `prompt_ids[rows[i]]`, which end with `offset_R[i]` of its tokens."""
        uniform_RT = torch.rand(
            len(rows), max_new_tokens, dtype=torch.float64, generator=generator
        ).to(self.device)
        longest = max(len(ids) for ids in prompt_ids) + max_new_tokens
        at_once = memory.rows_for_sampling(self._base, longest, self.memory_gib)
        steps = max_new_tokens * -(-len(rows) // at_once)
        with self._computing(), self._packed(min(len(rows), at_once), steps), torch.no_grad():
            return generate(
                self._forward(),
                prompt_ids,
                rows,
                uniform_RT,
                eos_token_ids=self.eos_token_ids,
                warp=self.warp,
                rows_at_once=at_once,
                offset_R=offset_R,
            )

    @property
    def _base(self) -> PreTrainedModel:
        return weights.base_model(self.model)

    def _forward(self) -> Forward:
        return Forward(
            self.model,
            self._base.config,
            self._takes_positions,
            self._takes_logits_to_keep,
            self.device,
        )

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """The right adapter is on, dropout is off, and products run in `compute_dtype`."""
        adapters.activate(self.model, self.adapter)
        if self.model.training:
            self.model.eval()
        with contextlib.ExitStack() as ways:
            ways.enter_context(fused_activations(self.model))
            if self.compute_dtype != memory.embedding_weight(self._base).dtype:
                ways.enter_context(torch.autocast(self.device.type, dtype=self.compute_dtype))
            yield

    def _separable_head(self) -> torch.nn.Linear | None:
        """The output head, where scoring can do without the logits."""
        if self.warp != Warp():
            return None
        with self._computing():
            return separable_head(self._base)

    @contextlib.contextmanager
    def _differentiating(self) -> Iterator[None]:
        """Faster ways to what is differentiated: a trained adapter's layers, and attention."""
        with contextlib.ExitStack() as ways:
            if torch.is_grad_enabled() and self.device.type == "cpu":
                if self.adapter is not None:
                    ways.enter_context(fused_adapters(self.model, self.compute_dtype))
                if self.compute_dtype == torch.bfloat16:
                    ways.enter_context(Float32Attention())
            yield

    def _packed(self, rows: int, steps: int) -> contextlib.AbstractContextManager[None]:
        if not packing_pays(self._base.num_parameters(), steps):
            return contextlib.nullcontext()
        return packed_linears(self.model, rows, self.compute_dtype)

    def _like(
        self, model: weights.Model, adapter: str | None, dtype: torch.dtype | None = None
    ) -> CausalLM:
        return CausalLM(
            model,
            self.tokenizer,
            compute_dtype=dtype or self.compute_dtype,
            adapter=adapter,
            warp=self.warp,
            memory_gib=self.memory_gib,
        )
