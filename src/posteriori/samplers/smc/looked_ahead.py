"""Independent draws token by token, each next token checked: the locally constrained proposal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from posteriori.core.journal.journal import once
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import TrainableLM
from posteriori.core.tensors import distinct_counts, ints
from posteriori.core.types import Draws
from posteriori.samplers.base import Job

from .make_twist import make_twist
from .particles import stepping
from .populations import Plan, Populations
from .resampling import Choices
from .turns import Turns


def looked_ahead(
    job: Job,
    lookahead: int,
    num_samples: int,
    prompts: Sequence[Prompt],
    key: tuple[str | int, ...],
) -> Draws:
    """y_t ~ q(.|c, y_<t), nearly prior x c / its sum (`Lookahead`), `num_samples` per prompt,
    prompt by prompt; log_weight = sum_t log w_t + log e(c, y):  E[w f(y)] = sum_y p~(y) f(y).

    Particles that are never resampled: so the draws are independent. `key` names their random
    numbers.
    """
    target = job.target
    plan = Plan(target, target.prior, make_twist("none"), "systematic", 0.0, 0.0, lookahead)
    prior = stepping(target.prior)
    device = prior.device if isinstance(prior, TrainableLM) else torch.device("cpu")
    rows = prior.rows_at_once(prompts, target.max_new_tokens)
    asked = torch.arange(len(prompts)).repeat_interleave(num_samples)
    each = max(1, min(rows, _ROWS))
    starts = range(0, len(asked), each)

    def part(number: int, start: int) -> Draws:
        used, _, size_G = distinct_counts(asked[start : start + each])
        populations = Populations(
            plan,
            [prompts[place] for place in ints(used)],
            torch.arange(len(used), device=device),
            size_G.to(device),
            Choices(job.generator(*key, number)),
        )
        return populations.run()

    works = [partial(part, number, start) for number, start in enumerate(starts)]
    turns = Turns(works, target.prior.decode)
    made = [once(partial(turns.__getitem__, number)) for number in range(len(works))]
    return Draws.concat([replace(draws, group_N=None) for draws in made])


_ROWS = 4096
"""Draws at once."""
