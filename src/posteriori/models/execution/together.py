"""Draws that several callers have asked for, in one pass over the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt, prompt_key
from posteriori.core.protocols import LanguageModel
from posteriori.core.tensors import ints

from .uniforms import Streams


@dataclass(frozen=True)
class SampleCall:
    """The arguments of one `LanguageModel.sample`."""

    prompts: tuple[Prompt, ...]
    num_samples: int
    max_new_tokens: int
    generator: torch.Generator | None

    @property
    def rows(self) -> int:
        return len(self.prompts) * self.num_samples


def sample_together(lm: LanguageModel, calls: Sequence[SampleCall]) -> list[Completions]:
    """What `lm.sample` returns for each of `calls`, which have one `max_new_tokens`.

    The same draws as call by call, up to the rounding of sums that are made in another order.
    `lm` has to draw its numbers by `uniform_rows`. A prompt of several calls is run once.
    """
    place: dict[str, int] = {}
    asked: list[Prompt] = []
    for call in calls:
        for prompt in call.prompts:
            if place.setdefault(prompt_key(prompt), len(asked)) == len(asked):
                asked.append(prompt)
    index = [
        place[prompt_key(prompt)]
        for call in calls
        for prompt in call.prompts
        for _ in range(call.num_samples)
    ]
    budget = calls[0].max_new_tokens
    # A model's `completions` knows the ids of prompts; an end alone stands for each text.
    ends = lm.completions(asked, [[lm.eos_token_ids[0]]] * len(asked), budget)
    nothing_yet = ends.select(index)
    start_N = torch.zeros_like(nothing_yet.lengths_N)
    streams = Streams.of([(call.generator, call.rows) for call in calls])
    drawn = lm.resample_suffix(nothing_yet, start_N, streams)
    found: list[Completions] = []
    first = 0
    for call in calls:
        found.append(_of_call(drawn.select(slice(first, first + call.rows)), call, place))
        first += call.rows
    return found


def _of_call(drawn: Completions, call: SampleCall, place: dict[str, int]) -> Completions:
    """The rows of one call, over its own prompts and as wide as its longest."""
    width = max(ints(drawn.lengths_N), default=1)
    count = torch.arange(len(call.prompts), device=drawn.prompt_index_N.device)
    assert drawn.token_log_prob_NL is not None, "a sampler returns its draws' log-probs"
    return replace(
        drawn,
        prompt_set=call.prompts,
        prompt_ids=tuple(drawn.prompt_ids[place[prompt_key(prompt)]] for prompt in call.prompts),
        prompt_index_N=count.repeat_interleave(call.num_samples),
        tokens_NL=drawn.tokens_NL[:, :width],
        token_log_prob_NL=drawn.token_log_prob_NL[:, :width],
    )
