"""Preference pairs with what a label may say beyond "chosen": a margin, a tie, a doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posteriori.core.occurrence import Prompt, prompt_key
from posteriori.core.seeds import generator
from posteriori.data.given_numbers import finite, in_short
from posteriori.data.preferences import PairSource, Preference, preference, preference_rows
from posteriori.errors import DataError


class LabelledPair(NamedTuple):
    """A pair of texts; `label` is P(chosen is preferred), `margin` how much better it has to be."""

    prompt: Prompt
    chosen: str
    rejected: str
    label: float
    margin: float
    where: str


def read_labelled_pairs(source: PairSource) -> list[LabelledPair]:
    """Rows of prompt, chosen, rejected (see `posteriori.data.preferences`) with two optional
    columns.

    `label`, a number in [0, 1]: P(chosen is preferred), 1 where it is missing; a tie is 0.5.
    `margin`, a finite number: r(chosen) should exceed r(rejected) by that much, 0 where missing.

    Raises `DataError` with the line or row for what is no pair of two different texts.
    """
    return [_labelled(row, where) for where, row in preference_rows(source)]


def _labelled(row: Mapping[str, Any], where: str) -> LabelledPair:
    pair = preference(row, where)
    chosen, rejected = _text("chosen", pair.chosen, pair), _text("rejected", pair.rejected, pair)
    if chosen == rejected:
        raise DataError(
            "'chosen' and 'rejected' are the same text, which says nothing about rewards",
            where=where,
            hint="remove the row",
        )
    label = _number(row, "label", 1.0, where)
    if not 0.0 <= label <= 1.0:
        raise DataError(
            f"'label' is {label}, not a probability",
            where=where,
            hint="write 1 where chosen is preferred, 0.5 for a tie, or leave the column out",
        )
    return LabelledPair(
        pair.prompt, chosen, rejected, label, _number(row, "margin", 0.0, where), where
    )


def _text(name: str, value: str | Sequence[int], pair: Preference) -> str:
    if not isinstance(value, str):
        raise DataError(
            f"'{name}' is a list of token ids, and a reward model reads text",
            where=pair.where,
            hint="write the text",
        )
    if not value.strip():
        raise DataError(f"'{name}' is blank", where=pair.where, hint="remove the row")
    return value


def _number(row: Mapping[str, Any], name: str, default: float, where: str) -> float:
    value = row.get(name)
    if value is None:
        return default
    number = finite(value) if isinstance(value, int | float) else None
    if number is None:
        shown = value if isinstance(value, str) else in_short(value)
        raise DataError(
            f"'{name}' is '{shown[:40]}', not a finite number",
            where=where,
            hint="write a number, or leave the column out",
        )
    return number


def split_by_prompt(
    pairs: Sequence[LabelledPair], held_out: float, seed: int
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Training pairs and held-out ones, no prompt in both; at least one prompt in each.

    Prompts are taken in a seeded order until `held_out` of the pairs are out: pairs of one prompt
    share what is said of it, and would make held-out figures look better than they are. Raises
    `DataError` for a single prompt.
    """
    of_prompt: dict[str, list[int]] = {}
    for at, pair in enumerate(pairs):
        of_prompt.setdefault(prompt_key(pair.prompt), []).append(at)
    if len(of_prompt) < 2:
        raise DataError(
            f"all {len(pairs)} pairs have the same prompt, so none can be held out by prompt",
            where=pairs[0].where,
            hint="give held_out_pairs: pairs from another file, to judge the model by",
        )
    groups = list(of_prompt.values())
    order = torch.randperm(len(groups), generator=generator(seed, "held out")).tolist()
    out: set[int] = set()
    for at in order[:-1]:
        out.update(groups[at])
        if len(out) >= held_out * len(pairs):
            break
    kept = [pair for at, pair in enumerate(pairs) if at not in out]
    return kept, [pairs[at] for at in sorted(out)]


class LabelTensors(NamedTuple):
    """Labels and margins of N pairs, float64 [N]."""

    label_N: Tensor
    margin_N: Tensor


def label_tensors(pairs: Sequence[LabelledPair]) -> LabelTensors:
    return LabelTensors(
        torch.tensor([pair.label for pair in pairs], dtype=torch.float64),
        torch.tensor([pair.margin for pair in pairs], dtype=torch.float64),
    )


def bucketed_batches(
    length_N: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Rows of one epoch in batches of similar length, each row once; a function of the seed.

    Rows are shuffled, sorted by length within stretches of `_STRETCH` batches, and the batches
    shuffled again: little padding, and hardly less random than batches at random.
    """
    stream = generator(seed, "reward batches", epoch)
    order = torch.randperm(len(length_N), generator=stream).tolist()
    stretch = _STRETCH * batch_size
    batches = []
    for start in range(0, len(order), stretch):
        rows = sorted(order[start : start + stretch], key=length_N.__getitem__)
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[at] for at in torch.randperm(len(batches), generator=stream).tolist()]


_STRETCH = 50
