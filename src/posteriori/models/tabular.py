"""`TabularLM`: a language model that is an explicit table, so that everything about it is exact.

The table holds one row of next-token logits for every prompt and every prefix without an end of
sequence. Prefixes are numbered breadth-first: with K non-EOS tokens, the prefix (y_1 .. y_t) has
number 1 + K + .. + K^(t-1) + sum_s digit(y_s) K^(t-s).
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from posteriori.core.completions import Completions, check_completions
from posteriori.core.journal.files import writing
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import NextTokens
from posteriori.core.settings.training import LoraSettings
from posteriori.data.formats.json_object import read_object
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ModelError, OutcomeError, PromptError, did_you_mean
from posteriori.models.execution.inverse_cdf import draw_tokens
from posteriori.models.execution.next_tokens import choices, log_prob_of
from posteriori.models.execution.suffix import carried_over, widened
from posteriori.models.execution.uniforms import uniform_rows

from .table_rows import TableRows
from .text.prompt_tokens import build_completions, check_draws


class TabularLM(torch.nn.Module):
    """A language model that is an explicit table, in which everything is exact.

        pi(y|c) = prod_t softmax(logits[c, prefix(y_<t)])[y_t], in float64

    Log-probs are exact to float64 rounding, and differentiable in `logits`. Its methods are those
    of `posteriori.core.protocols`, which says what they do.

    Args:
        logits: [P, R, V]: per prompt, per prefix (R = sum_{t<T} (V - 1)^t, in order of length), per
            token.
        prompts: the P prompts.
        vocabulary: the names of the V tokens.
        eos_token_id: the token that ends a completion.

    Raises:
        ModelError: for a table of another shape.

    Example:
        >>> lm = po.TabularLM.random(["<eos>", "a", "b"], max_new_tokens=3, prompts=["x"], seed=0)
        >>> tuple(lm.logits.shape)
        (1, 7, 3)
    """

    @named_arguments
    def __init__(
        self,
        logits: Tensor,
        prompts: Sequence[str],
        vocabulary: Sequence[str],
        *,
        eos_token_id: int = 0,
    ) -> None:
        super().__init__()
        if logits.dim() != 3:
            raise ModelError(
                f"the table is {tuple(logits.shape)}",
                hint="its shape is [prompts, prefixes, vocabulary]",
            )
        num_prompts, num_prefixes, vocab_size = logits.shape
        if num_prompts != len(prompts) or vocab_size != len(vocabulary):
            raise ModelError(
                f"the table is {tuple(logits.shape)} for {len(prompts)} prompts "
                f"and {len(vocabulary)} tokens",
                hint="its shape is [prompts, prefixes, vocabulary]",
            )
        if not 0 <= eos_token_id < vocab_size:
            raise ModelError(
                f"eos_token_id={eos_token_id} is none of the {vocab_size} tokens",
                hint="it is the place of the token that ends a completion",
            )
        self.logits = torch.nn.Parameter(logits.double(), requires_grad=False)
        self.prompts = tuple(prompts)
        self._place = {prompt: at for at, prompt in reversed(list(enumerate(self.prompts)))}
        self.vocabulary = tuple(vocabulary)
        self.eos_token_id = eos_token_id
        self.max_new_tokens = _depth(num_prefixes, vocab_size - 1)
        others = [token for token in range(vocab_size) if token != eos_token_id]
        digit = torch.zeros(vocab_size, dtype=torch.long)
        digit[others] = torch.arange(len(others))
        self._digit_V = digit

    def __repr__(self) -> str:
        return (
            f"TabularLM({len(self.prompts)} prompts, {len(self.vocabulary)} tokens, "
            f"at most {self.max_new_tokens} per completion)"
        )

    @classmethod
    def random(
        cls,
        vocabulary: Sequence[str],
        max_new_tokens: int,
        prompts: Sequence[str] = ("",),
        *,
        seed: int = 0,
        scale: float = 1.0,
    ) -> TabularLM:
        """A table of normal logits with standard deviation `scale`; token 0 ends a completion."""
        branching = len(vocabulary) - 1
        prefixes = sum(branching**t for t in range(max_new_tokens))
        generator = torch.Generator().manual_seed(seed)
        shape = (len(prompts), prefixes, len(vocabulary))
        logits = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return cls(logits, prompts, vocabulary)

    @property
    def module(self) -> torch.nn.Module:
        return self

    @property
    def device(self) -> torch.device:
        return self.logits.device

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return (self.eos_token_id,)

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's own number: a table reads no tokens of it."""
        at = self._place.get(prompt) if isinstance(prompt, str) else None
        if at is None:
            raise PromptError(
                f"the table has no prompt {prompt!r}", hint=did_you_mean(str(prompt), self.prompts)
            )
        return (at,)

    def decode(self, ids: list[list[int]]) -> list[str]:
        return [" ".join(self.vocabulary[i] for i in row if i != self.eos_token_id) for row in ids]

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Completions:
        """y ~ pi(.|c), prompt by prompt, with log pi(y|c)."""
        check_draws(prompts, num_samples)
        num_rows = len(prompts) * num_samples
        start_N = torch.zeros(num_rows, dtype=torch.long, device=self.device)
        nothing_yet = Completions(
            prompt_set=tuple(prompts),
            prompt_ids=tuple(self.encode(prompt) for prompt in prompts),
            prompt_index_N=torch.arange(len(prompts), device=self.device).repeat_interleave(
                num_samples
            ),
            tokens_NL=start_N[:, None],
            lengths_N=start_N,
            ended_N=torch.zeros(num_rows, dtype=torch.bool, device=self.device),
            max_new_tokens=max_new_tokens,
            decode=self.decode,
        )
        return self.resample_suffix(nothing_yet, start_N, generator)

    def resample_suffix(
        self, completions: Completions, start_N: Tensor, generator: torch.Generator | None = None
    ) -> Completions:
        budget = completions.max_new_tokens
        self._check_depth(budget)
        num_rows = len(completions)
        given_NT = widened(completions.tokens_NL, budget)
        table_N = self._tables(completions)
        uniform_NT = uniform_rows(num_rows, budget, generator).to(self.device)
        tokens_NT = torch.zeros_like(given_NT)
        lengths_N = torch.full((num_rows,), budget, device=self.device)
        ended_N = torch.zeros(num_rows, dtype=torch.bool, device=self.device)
        prefix_N = torch.zeros_like(table_N)
        with torch.no_grad():
            for t in range(budget):
                fresh_N, _ = draw_tokens(self.logits[table_N, prefix_N], uniform_NT[:, t])
                token_N = given_NT[:, t].where(t < start_N, fresh_N).where(~ended_N, 0)
                tokens_NT[:, t] = token_N
                ends_N = (token_N == self.eos_token_id) & ~ended_N
                lengths_N[ends_N] = t + 1
                ended_N |= ends_N
                prefix_N = self._child(prefix_N, token_N, t).where(~ended_N, 0)
        drawn = replace(completions, tokens_NL=tokens_NT, lengths_N=lengths_N, ended_N=ended_N)
        fresh_NT = self.token_log_prob(drawn).detach()
        return replace(drawn, token_log_prob_NL=carried_over(completions, start_N, fresh_NT))

    def token_power(self, alpha: float) -> TabularLM:
        return TabularLM(
            alpha * self.logits.detach(),
            self.prompts,
            self.vocabulary,
            eos_token_id=self.eos_token_id,
        )

    @contextlib.contextmanager
    def stepping(
        self,
        prompts: Sequence[Prompt],
        parent_R: Tensor,
        max_new_tokens: int,
        hidden: bool = False,  # noqa: ARG002 - a table always knows its prefix
    ) -> Iterator[TableRows]:
        self._check_depth(max_new_tokens)
        yield TableRows(self, [self.encode(prompt) for prompt in prompts], parent_R)

    def rows_at_once(self, prompts: Sequence[Prompt], max_new_tokens: int) -> int:  # noqa: ARG002
        return 2**20 // self.vocab_size + 1

    def log_prob(self, completions: Completions) -> Tensor:
        """log pi(y|c), float64 [N], nats; differentiable in `logits`."""
        return self.token_log_prob(completions).sum(-1)

    def token_log_prob(self, completions: Completions) -> Tensor:
        check_completions(completions)
        table_N1, prefix_NL = self._rows(completions)
        log_prob_NLV = self.logits[table_N1, prefix_NL].log_softmax(-1)
        chosen_NL = log_prob_NLV.gather(-1, completions.tokens_NL[..., None])[..., 0]
        return chosen_NL.masked_fill(~completions.own_mask_NL, 0.0)

    def features(self, completions: Completions) -> Tensor:
        """Which row of the table it is: one-hot over prompts and prefixes, float64 [N, L, P R]."""
        table_N1, prefix_NL = self._rows(completions)
        num_prompts, num_prefixes, _ = self.logits.shape
        row_NL = table_N1 * num_prefixes + prefix_NL
        one_hot_NLR = torch.nn.functional.one_hot(row_NL, num_prompts * num_prefixes).double()
        return one_hot_NLR.masked_fill(~completions.mask_NL[..., None], 0.0)

    def next_tokens(self, completions: Completions, most: int) -> NextTokens:
        table_N1, prefix_NL = self._rows(completions)
        logits_NLV = self.logits.detach()[table_N1, prefix_NL]
        eos = torch.tensor(self.eos_token_ids, device=self.device)
        return choices(logits_NLV, self.features(completions), completions.tokens_NL, eos, most)

    def choice_log_prob(self, completions: Completions, token_NLK: Tensor) -> Tensor:
        table_N1, prefix_NL = self._rows(completions)
        return log_prob_of(self.logits[table_N1, prefix_NL], token_NLK)

    @property
    def token_features_VD(self) -> Tensor:
        """Which token it is: one-hot, float32 [V, V]."""
        return torch.eye(self.vocab_size, device=self.device)

    def completions(
        self,
        prompts: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
    ) -> Completions:
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

    def micro_batches(
        self,
        completions: Completions,
        together: int = 1,  # noqa: ARG002 - part of the protocol
        keeps_logits: bool = False,  # noqa: ARG002 - part of the protocol
    ) -> list[Tensor]:
        """A table scores everything at once."""
        return [torch.arange(len(completions))]

    def in_float64(self) -> TabularLM:
        return self

    def as_policy(
        self,
        kind: Literal["full", "lora"],
        lora: LoraSettings,  # noqa: ARG002 - part of the protocol
        seed: int,  # noqa: ARG002 - part of the protocol
    ) -> TabularLM:
        """A copy of the table whose logits train; a table has no low-rank form."""
        if kind == "lora":
            raise ModelError("a table cannot take a LoRA adapter", hint="use policy='full'")
        policy = copy.deepcopy(self)
        policy.logits.requires_grad_(True)
        return policy

    def trained_state(self) -> dict[str, Tensor]:
        return {"logits": self.logits.data}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        self.logits.data.copy_(state["logits"])

    def save_pretrained(self, directory: Path) -> None:
        """`table.safetensors` and `table.json`, as `TabularLM.from_pretrained` reads them. Raises
        `CheckpointError` where they cannot be written."""
        directory = Path(directory)
        about = {
            "prompts": self.prompts,
            "vocabulary": self.vocabulary,
            "eos_token_id": self.eos_token_id,
        }
        with writing("the table", directory):
            directory.mkdir(parents=True, exist_ok=True)
            save_file({"logits": self.logits.data}, directory / "table.safetensors")
            (directory / "table.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> TabularLM:
        place = Path(directory)
        try:
            about = read_object(place / "table.json")
            logits = load_file(place / "table.safetensors")["logits"]
            prompts, words, eos = (about[n] for n in ("prompts", "vocabulary", "eos_token_id"))
            if not (isinstance(prompts, list) and isinstance(words, list) and isinstance(eos, int)):
                raise ValueError("table.json has no lists of prompts and words, or no end")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"no table can be read: {type(error).__name__}: {error}",
                where=str(place),
                hint="give a directory that TabularLM.save_pretrained has written",
            ) from error
        return cls(logits, prompts, words, eos_token_id=eos)

    def _tables(self, completions: Completions) -> Tensor:
        """Which of the prompts' tables each completion is drawn from, [N]."""
        table_P = torch.tensor([self.encode(p)[0] for p in completions.prompt_set])
        return table_P.to(self.device)[completions.prompt_index_N]

    def _rows(self, completions: Completions) -> tuple[Tensor, Tensor]:
        """Where each token's logits stand: prompt [N, 1] and prefix [N, L] (0 past the end)."""
        self._check_depth(int(completions.lengths_N.max()))
        tokens_NL = completions.tokens_NL
        table_N = self._tables(completions)
        prefix_N = torch.zeros_like(table_N)
        prefixes = []
        for t in range(tokens_NL.shape[1]):
            prefixes.append(prefix_N)
            prefix_N = self._child(prefix_N, tokens_NL[:, t], t)
        return table_N[:, None], torch.stack(prefixes, dim=1).where(completions.mask_NL, 0)

    def _child(self, prefix_N: Tensor, token_N: Tensor, depth: int) -> Tensor:
        """The number of prefix + token; meaningless (0) past an end of sequence or the last row."""
        branching = self.vocab_size - 1
        first = sum(branching**t for t in range(depth))
        child = (
            first
            + branching**depth
            + (prefix_N - first) * branching
            + self._digit_V.to(token_N.device)[token_N]
        )
        return child.where((child >= 0) & (child < self.logits.shape[1]), 0)

    def _check_depth(self, length: int) -> None:
        if length > self.max_new_tokens:
            raise OutcomeError(
                f"the table ends at {self.max_new_tokens} tokens, and {length} were asked for"
            )


def _depth(num_prefixes: int, branching: int) -> int:
    depth, total = 0, 0
    while total < num_prefixes:
        total += branching**depth
        depth += 1
    if total != num_prefixes:
        raise ModelError(
            f"{num_prefixes} prefixes do not make a full tree with {branching} branches",
            hint="a table of depth T has 1 + K + .. + K^(T-1) rows for K non-EOS tokens",
        )
    return depth
