"""Completions to look at, all policies side by side: what the page's script sorts and searches."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from posteriori.report.result import PolicyResult, Subject
from posteriori.report.safe_text import number, one_line, prompt_label, visible
from posteriori.runs.draw_records import Record

MOST = 10_000
"""Completions that one page holds; a browser sorts and searches so many at once."""
PAGE = 20
"""Rows that are shown at a time. The script's own number is in the page's data."""
LONGEST = 1200
_LONGEST_PROMPT = 200


def samples(subject: Subject) -> dict[str, Any]:
    """The page's completions: for each policy its draws, the k-th of all prompts together.

    They are each policy's first draws, not chosen ones, so what they look like is what is typical.
    `columns` holds lists, as JSON can; `rows` the first ones, for a page that runs no script.
    """
    everyone = subject.everyone
    each = max(1, MOST // max(1, len(everyone)))
    place = {index: at for at, index in enumerate(subject.prompts)}
    columns = [_column(policy, place, each) for policy in everyone]
    prompts = [prompt_label(prompt, _LONGEST_PROMPT) for prompt in subject.prompts.values()]
    longest = max((len(column["text"]) for column in columns), default=0)
    return {
        "prompts": [one_line(prompt, 90) for prompt in prompts],
        "columns": columns,
        "page": PAGE,
        "rows": [
            [_cell(column, row, prompts) for column in columns] for row in range(min(PAGE, longest))
        ],
        "num_rows": longest,
        "total": sum(len(column["text"]) for column in columns),
        "drawn": sum(policy.num_draws for policy in everyone),
        "cut": any(any(column["cut"]) for column in columns),
        "data": inert({"prompts": prompts, "columns": columns, "page": PAGE}),
    }


def _column(policy: PolicyResult, place: dict[int, int], most: int) -> dict[str, Any]:
    records: Sequence[Record] = policy.drawn.records[:most]
    # A weight of 1 is the average one: the target has such a draw as often as the policy does.
    scale = policy.num_draws / max(1, len(policy.drawn.prompts)) or 1.0
    reward = [each.reward for each in records]
    weight = [each.weight * scale for each in records]
    return {
        "name": one_line(policy.name),
        "prompt": [place[each.prompt_index] for each in records],
        "text": [visible(each.completion, LONGEST) for each in records],
        "cut": [int(not each.ended) for each in records],
        "reward": [_key(value) for value in reward],
        "reward_shown": [number(value, 2) for value in reward],
        "weight": [_key(value) for value in weight],
        "weight_shown": [number(value, 2) for value in weight],
    }


def _cell(column: dict[str, Any], row: int, prompts: Sequence[str]) -> dict[str, Any] | None:
    if row >= len(column["text"]):
        return None
    prompt = prompts[int(column["prompt"][row])] if len(prompts) > 1 else ""
    cell = {name: values[row] for name, values in column.items() if name != "name"}
    return {**cell, "prompt": prompt}


def _key(value: float) -> float | str:
    """A number to sort by; what is not finite as JavaScript's `Number` reads it."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "NaN" if math.isnan(value) else float(f"{value:.7g}")


def inert(data: Any) -> Markup:
    """JSON that no HTML parser finds anything in: plain ASCII, without a bracket of a tag."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704 - no character is left that could end its element
