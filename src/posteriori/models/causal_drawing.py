"""Drawing from a transformers model: completions, suffixes of them, and token by token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt
from posteriori.distributed.exchange import by_rows
from posteriori.distributed.world import refuse_several
from posteriori.models.execution.generate import Rows, generate
from posteriori.models.execution.stepping import CausalRows, output_head
from posteriori.models.execution.suffix import distinct_prefixes, splice
from posteriori.models.execution.uniforms import uniform_rows
from posteriori.models.passes.rotary import check_positions

from .causal_scoring import CausalScoring
from .generating import texts_of
from .passes import memory
from .text.prompt_tokens import check_draws, check_length, encode_prompt
from .text.texts import decode_behind

_FEW_TOKENS = 2048
"""Prompts of so many tokens together cost nothing to run, beside what is drawn for them."""


class CausalDrawing(CausalScoring):
    """What `CausalLM` does to draw completions, and with prompts before."""

    tokenizer: PreTrainedTokenizerBase
    _start: int | None
    _before: int | None

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt; an empty one starts from BOS.

        Raises `PromptError` for a conversation that the chat template refuses, and `ModelError` for
        a token that the model has no row for.
        """
        rows = memory.embedding_weight(self._run.base).shape[0]
        return encode_prompt(self.tokenizer, prompt, self._start, self.eos_token_ids, rows)

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Texts without special tokens, each as it reads behind other text."""
        return decode_behind(self.tokenizer, ids, self._before)

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Completions:
        """y ~ pi(.|c): `num_samples` completions per prompt, prompt by prompt, with log pi(y|c).

        Raises `PromptError` where a prompt does not fit. With the same generator state the draws
        are the same, whatever else is in the batch, up to rounding.
        """
        check_draws(prompts, num_samples)
        prompt_ids = tuple(self.encode(prompt) for prompt in prompts)
        self._check_length(prompts, prompt_ids, max_new_tokens)
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

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        num_samples: int = 1,
        max_new_tokens: int = 64,
        seed: int = 0,
    ) -> list[str] | list[list[str]]:
        """A text per prompt; a list of them where `num_samples` is above 1."""
        return texts_of(self, prompts, num_samples, max_new_tokens, seed)

    def resample_suffix(
        self, completions: Completions, start_N: Tensor, generator: torch.Generator | None = None
    ) -> Completions:
        """Equal prefixes are run once."""
        prefixes, rows = distinct_prefixes(completions, start_N)
        budget = completions.max_new_tokens
        self._check_length(completions.prompt_set, completions.prompt_ids, budget)
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
        """Raises `PromptError` where a prompt does not fit, and `DistributedError` where several
        processes are to do it together: all would do the same."""
        refuse_several("drawing token by token", "a sampler that draws whole completions")
        prompt_ids = [self.encode(prompt) for prompt in prompts]
        self._check_length(prompts, prompt_ids, max_new_tokens)
        if hidden:
            output_head(self._run.base)
        with self._run.sampling(len(parent_R), max_new_tokens) as (forward, computing):
            yield CausalRows(
                forward,
                computing,
                prompt_ids,
                parent_R.to(self.device),
                max_new_tokens,
                torch.tensor(self.eos_token_ids, device=self.device),
                self.warp,
                hidden,
            )

    def rows_at_once(self, prompts: Sequence[Prompt], max_new_tokens: int) -> int:
        """How many rows fit in `memory_gib`, each with its cache."""
        longest = max(len(self.encode(prompt)) for prompt in prompts) + max_new_tokens
        return memory.rows_for_sampling(self._run.base, longest, self.memory_gib)

    def _generate(
        self,
        prompt_ids: Sequence[tuple[int, ...]],
        rows: list[int],
        max_new_tokens: int,
        generator: torch.Generator | None,
        offset_R: Tensor | None = None,
    ) -> Rows:
        """Row i goes on from `prompt_ids[rows[i]]`, which end with `offset_R[i]` of its tokens."""
        # All processes draw the numbers of all rows: the process that runs a row does not change
        # its tokens.
        uniform_RT = uniform_rows(len(rows), max_new_tokens, generator)
        self._run.keep_pace()
        parts = by_rows(
            len(rows),
            lambda share: self._generate_rows(
                prompt_ids,
                rows[share],
                uniform_RT[share].to(self.device),
                None if offset_R is None else offset_R[share],
                share.stop - share.start < len(rows),
            ),
        )
        return Rows.joined(parts, self.device)

    def _generate_rows(
        self,
        prompt_ids: Sequence[tuple[int, ...]],
        rows: list[int],
        uniform_RT: Tensor,
        offset_R: Tensor | None,
        is_share: bool,
    ) -> tuple[Tensor, ...]:
        max_new_tokens = uniform_RT.shape[1]
        longest = max(len(ids) for ids in prompt_ids) + max_new_tokens
        at_once = memory.rows_for_sampling(self._run.base, longest, self.memory_gib)
        steps = max_new_tokens * -(-len(rows) // at_once)
        with (
            torch.no_grad(),
            self._run.sampling(min(len(rows), at_once), steps) as (forward, computing),
            computing(),
        ):
            return generate(
                forward,
                prompt_ids,
                rows,
                uniform_RT,
                eos_token_ids=self.eos_token_ids,
                warp=self.warp,
                rows_at_once=at_once,
                offset_R=offset_R,
                every_prompt=is_share and sum(map(len, prompt_ids)) <= _FEW_TOKENS,
            ).tensors()

    def _check_length(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[tuple[int, ...]], max_new_tokens: int
    ) -> None:
        for prompt, ids in zip(prompts, prompt_ids, strict=True):
            check_length(prompt, ids, max_new_tokens, self.context_length)
        check_positions(self._run.base.config, prompt_ids, max_new_tokens)
