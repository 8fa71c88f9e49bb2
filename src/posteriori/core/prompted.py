"""A prompted language model: a prefix of its own before every prompt that it is given."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError

from .completions import Completions
from .occurrence import Message, Prompt, prompt_key
from .protocols import LanguageModel, NextTokenLM, NextTokens, Rows, SteppingLM, TrainableLM
from .wrapped import WrappedTrainable

if TYPE_CHECKING:
    from posteriori.core.settings.training import LoraSettings

Prefix = str | Sequence[Message]


class Prompted(WrappedTrainable):
    """A language model with a prefix of its own before every prompt.

        pi'(y|c) = pi(y | prefix + c)

    As the prior of a target it is context distillation: the target's prompts stay without the
    prefix, and `fit` trains a policy that starts as the bare `lm` and has to learn what the prefix
    does. As an expert it is `Expert(lm, weight, prompt_prefix=prefix)`. Completions that it draws
    carry the bare prompt, so any model can score them. It can do whatever `lm` can: be trained, go
    token by token.

    Args:
        lm: the language model.
        prefix: before a prompt that is a string, a string, put there as it is; before a
            conversation, a string (a system message, or the beginning of the one there is) or
            messages.

    Raises:
        ConfigError: for an empty prefix, or messages before a string.

    Example:
        >>> polite = po.Prompted(po.load("tiny"), "Answer politely. ")
        >>> import torch
        >>> polite.sample(["The food"], 1, 4, torch.Generator().manual_seed(0)).prompts
        ['The food']
    """

    @named_arguments
    def __init__(self, lm: LanguageModel, prefix: Prefix) -> None:
        if not prefix:
            raise ConfigError(
                "the prefix is empty", where="Prompted", hint="use the model itself without one"
            )
        self.lm, self.prefix = lm, prefix
        self._bare_ids: dict[str, tuple[int, ...]] = {}

    def __repr__(self) -> str:
        return f"Prompted({self.lm!r}, {str(self.prefix)[:40]!r})"

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Completions:
        drawn = self.lm.sample(self._read(prompts), num_samples, max_new_tokens, generator)
        return self._bare(drawn, tuple(prompts))

    def resample_suffix(
        self, completions: Completions, start_N: Tensor, generator: torch.Generator | None = None
    ) -> Completions:
        drawn = self.lm.resample_suffix(self._as_read(completions), start_N, generator)
        return self._bare(drawn, completions.prompt_set)

    def token_power(self, alpha: float) -> Prompted:
        return Prompted(self.lm.token_power(alpha), self.prefix)

    def log_prob(self, completions: Completions) -> Tensor:
        return self.lm.log_prob(self._as_read(completions))

    def token_log_prob(self, completions: Completions) -> Tensor:
        return self.lm.token_log_prob(self._as_read(completions))

    def next_tokens(self, completions: Completions, most: int) -> NextTokens:
        return self._next_token.next_tokens(self._as_read(completions), most)

    def choice_log_prob(self, completions: Completions, token_NLK: Tensor) -> Tensor:
        return self._next_token.choice_log_prob(self._as_read(completions), token_NLK)

    @property
    def token_features_VD(self) -> Tensor:
        return self._next_token.token_features_VD

    def in_float64(self) -> Prompted:
        return Prompted(self.lm.in_float64(), self.prefix)

    @contextlib.contextmanager
    def stepping(
        self,
        prompts: Sequence[Prompt],
        parent_R: Tensor,
        max_new_tokens: int,
        hidden: bool = False,
    ) -> Generator[Rows]:
        asked = self._read(prompts)
        with self._stepping.stepping(asked, parent_R, max_new_tokens, hidden) as rows:
            rows.prompt_ids = tuple(self._ids(prompt) for prompt in prompts)
            yield rows

    def rows_at_once(self, prompts: Sequence[Prompt], max_new_tokens: int) -> int:
        return self._stepping.rows_at_once(self._read(prompts), max_new_tokens)

    def as_policy(
        self, kind: Literal["full", "lora"], lora: LoraSettings, seed: int
    ) -> TrainableLM:
        """A policy that starts as the model without its prefix."""
        return self._trainable.as_policy(kind, lora, seed)

    @property
    def _next_token(self) -> NextTokenLM:
        return self._that(NextTokenLM, "say what tokens may come next")

    @property
    def _stepping(self) -> SteppingLM:
        return self._that(SteppingLM, "be run token by token")

    def _read(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [with_prefix(prompt, self.prefix) for prompt in prompts]

    def _as_read(self, completions: Completions) -> Completions:
        return asked_of(self.lm, completions, self.prefix)

    def _bare(self, drawn: Completions, prompts: tuple[Prompt, ...]) -> Completions:
        ids = tuple(self._ids(prompt) for prompt in prompts)
        return replace(drawn, prompt_set=prompts, prompt_ids=ids)

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        key = prompt_key(prompt)
        if key not in self._bare_ids:
            self._bare_ids[key] = prompt_ids(self.lm, prompt)
        return self._bare_ids[key]


def with_prefix(prompt: Prompt, prefix: Prefix) -> Prompt:
    """The prompt as a `Prompted` model sees it."""
    if isinstance(prompt, str):
        if not isinstance(prefix, str):
            raise ConfigError(
                f"the prefix is a list of messages, and the prompt {prompt[:60]!r} a string",
                hint="give both as strings, or both as messages",
            )
        return prefix + prompt
    if not isinstance(prefix, str):
        return [*prefix, *prompt]
    if prompt and prompt[0].get("role") == "system":
        first = {**prompt[0], "content": f"{prefix}\n\n{prompt[0]['content']}"}
        return [first, *prompt[1:]]
    return [{"role": "system", "content": prefix}, *prompt]


def asked_of(
    lm: LanguageModel, completions: Completions, prefix: Prefix | None = None
) -> Completions:
    """The same completions as `lm` reads them: after its own encoding of prefix + prompt."""
    prompts = tuple(
        prompt if prefix is None else with_prefix(prompt, prefix)
        for prompt in completions.prompt_set
    )
    ids = tuple(prompt_ids(lm, prompt) for prompt in prompts)
    return replace(completions, prompt_set=prompts, prompt_ids=ids)


def prompt_ids(lm: LanguageModel, prompt: Prompt) -> tuple[int, ...]:
    """A prompt in the tokens of `lm`."""
    return lm.completions([prompt], [[lm.eos_token_ids[0]]], 1).prompt_ids[0]
