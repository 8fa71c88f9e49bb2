"""Scoring by a transformers model: log-probs, hidden states, next tokens of given completions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posteriori.core.completions import Completions, check_completions
from posteriori.core.protocols import NextTokens
from posteriori.core.run.progress import advance
from posteriori.distributed.exchange import by_rows, is_shared_out
from posteriori.distributed.executor import SentOnce
from posteriori.distributed.sharding import whole
from posteriori.models.execution.hidden_states import prefix_features
from posteriori.models.execution.next_tokens import choice_log_prob, next_tokens
from posteriori.models.execution.running_model import RunningModel
from posteriori.models.execution.score import token_log_prob
from posteriori.models.execution.stepping import output_head
from posteriori.models.passes.batches import batches_of_units, in_order
from posteriori.models.passes.recompute import check_recomputes
from posteriori.models.passes.rotary import check_positions
from posteriori.models.weights.state import Model

from .passes import memory
from .text.prompt_tokens import check_length
from .warp import Warp

_TOO_FEW = 512
"""Tokens that one process runs as soon as several have run and exchanged their shares; and their
log-probs are then those of one process to the bit."""


class CausalScoring(SentOnce):
    """What `CausalLM` does with completions that are there already."""

    warp: Warp
    memory_gib: float
    _run: RunningModel
    _eos_token_ids: tuple[int, ...]
    _footprint: memory.Footprint

    def stand_on(self, model: Model) -> None:
        """Be the bare weights under the adapters of `model`: these, cut over processes."""
        self._run = RunningModel(model, None, self.compute_dtype)

    def checkpoint_gradients(self) -> None:
        """From now on layers keep their inputs alone, and are run again on the way back. Raises
        `ModelError` for a model that does not say what its layers are."""
        check_recomputes(self._run.base)
        self._run.recomputes = True

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._run.compute_dtype

    @property
    def device(self) -> torch.device:
        return self._run.device

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._eos_token_ids

    @property
    def context_length(self) -> int | None:
        """How many tokens the model can take, prompt included; None where it names no limit."""
        length = getattr(self._run.base.config, "max_position_embeddings", None)
        return length if length is None or length > 0 else None

    def log_prob(self, completions: Completions) -> Tensor:
        """log pi(y|c), float64 [N], nats per completion, the end-of-sequence token included.

        Differentiable where gradients are enabled. Raises `PromptError` where a completion and its
        prompt exceed the model's context.
        """
        return self.token_log_prob(completions).sum(-1)

    def token_log_prob(self, completions: Completions) -> Tensor:
        """log pi(y_t|c, y_<t), float64 [N, L], zero beyond a completion's end; as `log_prob`."""
        check_completions(completions)
        longest_P = torch.zeros(len(completions.prompt_ids), dtype=torch.long, device=self.device)
        longest_P.scatter_reduce_(0, completions.prompt_index_N, completions.lengths_N, "amax")
        for at, longest in enumerate(longest_P.tolist()):
            if longest:
                prompt, ids = completions.prompt_set[at], completions.prompt_ids[at]
                check_length(prompt, ids, longest, self.context_length)
        check_positions(
            self._run.base.config,
            [completions.prompt_ids[at] for at in longest_P.nonzero()[:, 0].tolist()],
            int(longest_P.max()),
        )
        (log_prob_NL,) = self._in_shares(completions, self._token_log_prob)
        return log_prob_NL

    def _token_log_prob(self, completions: Completions) -> tuple[Tensor]:
        batches = self.micro_batches(completions)
        eos = torch.tensor(self.eos_token_ids, device=self.device)
        with self._run.scoring(hidden=self._separable_head() is not None) as forward:
            parts = []
            for batch in batches:
                self._footprint.keep_within(self.memory_gib)
                part = token_log_prob(
                    forward, completions.select(batch), eos, self.warp, self._run.weight_cache
                )
                parts.append(part.double())
                advance(len(batch))
        return (in_order(parts, batches, completions.tokens_NL.shape[1]),)

    def features(self, completions: Completions) -> Tensor:
        """h(c, y_<t), what goes into the output head, float32 [N, L, D]; as `prefix_features`."""
        with torch.no_grad():
            (features_NLD,) = self._in_shares(completions, self._features)
        return features_NLD

    def _features(self, completions: Completions) -> tuple[Tensor]:
        batches = self.micro_batches(completions)
        with self._run.scoring(hidden=self._separable_head() is not None) as forward:
            parts = [prefix_features(forward, completions.select(b)) for b in batches]
        return (in_order(parts, batches, completions.tokens_NL.shape[1]),)

    def next_tokens(self, completions: Completions, most: int) -> NextTokens:
        """What it says of every next token of every prefix, without gradient; as `NextTokens`."""
        with torch.no_grad():
            return NextTokens(
                *self._in_shares(completions, lambda part: self._next_tokens(part, most))
            )

    def _next_tokens(self, completions: Completions, most: int) -> tuple[Tensor, ...]:
        eos = torch.tensor(self.eos_token_ids, device=self.device)
        batches = self.micro_batches(completions, keeps_logits=True)
        with self._run.scoring(hidden=self._separable_head() is not None) as forward:
            parts = [
                next_tokens(forward, completions.select(batch), eos, self.warp, most)
                for batch in batches
            ]
        width = completions.tokens_NL.shape[1]
        return tuple(in_order(each, batches, width) for each in zip(*parts, strict=True))

    def choice_log_prob(self, completions: Completions, token_NLK: Tensor) -> Tensor:
        """log pi(v|c, y_<t) of K tokens for each prefix, float64 [N, L, K]; differentiable.

        One pass that keeps the logits of all its tokens: to be called with a micro-batch.
        """
        eos = torch.tensor(self.eos_token_ids, device=self.device)
        with self._run.scoring(hidden=False) as forward:
            log_prob_NTK = choice_log_prob(forward, completions, token_NLK, eos, self.warp)
        missing = token_NLK.shape[1] - log_prob_NTK.shape[1]
        return torch.nn.functional.pad(log_prob_NTK, (0, 0, 0, missing))

    @property
    def token_features_VD(self) -> Tensor:
        """The output head's weights, float32 [V, E]. Raises `ModelError` where there is no head."""
        weight = output_head(self._run.base).weight
        assert isinstance(weight, Tensor)
        return whole(weight.detach()).float()

    def micro_batches(
        self, completions: Completions, together: int = 1, keeps_logits: bool = False
    ) -> list[Tensor]:
        """Groups are of similar length."""
        self._run.keep_pace()
        cells = memory.cells_for_scoring(
            self._run.base,
            self.memory_gib,
            torch.is_grad_enabled(),
            keeps_logits=keeps_logits or self._separable_head() is None,
            compute_bytes=self.compute_dtype.itemsize,
            recomputes=self._run.recomputes,
        )
        return batches_of_units(completions, cells, together)

    def _in_shares(
        self, completions: Completions, work: Callable[[Completions], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """`work` on all rows, with several processes a share in each, of about as many tokens.
        Where there is a gradient it is all done here: a caller that wants one shares rows out
        itself."""
        self._run.keep_pace()
        if torch.is_grad_enabled() or not is_shared_out():
            return work(completions)
        lengths_N = completions.lengths_N.tolist()
        if sum(lengths_N) <= _TOO_FEW:
            return work(completions)
        parts = by_rows(
            len(completions),
            lambda share: work(completions.select(share)),
            [length + 1 for length in lengths_N],
        )
        return tuple(torch.cat(each).to(self.device) for each in zip(*parts, strict=True))

    def _separable_head(self) -> torch.nn.Linear | None:
        """The output head, where scoring can do without the logits."""
        return self._run.separable_head() if self.warp == Warp() else None
