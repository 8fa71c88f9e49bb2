"""What draws are worth: a table for people, a dictionary for programs, findings in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .output import visible
from .report_table import finding_json, shown

if TYPE_CHECKING:
    from torch import Tensor

    from posteriori.core.types import Draws

_WIDTH = 40
"""Characters of a prompt that the table shows."""


def print_draws(console: Console, draws: Draws, *, title: str) -> None:
    """A line per prompt, then the cost and the findings."""
    lines = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=lines, pad_edge=False)
    for header in ("prompt", "draws", "effective", "distinct", "mean reward", "log Z, nats"):
        table.add_column(header, justify="left" if header == "prompt" else "right", no_wrap=True)
    for row in _per_prompt(draws):
        table.add_row(
            Text(visible(row["prompt"])[:_WIDTH]),
            str(row["draws"]),
            f"{row['effective']:.1f}",
            str(row["distinct"]),
            f"{row['mean_reward']:.3f}",
            row["log_z_shown"],
        )
    console.print(visible(f"{title}; guarantee: {draws.guarantee}"), soft_wrap=True)
    console.print(table)
    for line in _some(draws):
        console.print(Text(visible(line)), soft_wrap=True)
    cost = draws.cost
    console.print(
        f"{cost.lm_tokens:,} LM tokens, {cost.evidence_calls:,} evidence calls, "
        f"{cost.seconds:.1f} s"
    )
    for finding in draws.findings:
        console.print(Text(visible(str(finding))), soft_wrap=True)


_PROMPTS, _EACH, _LONGEST = 3, 3, 160


def _some(draws: Draws) -> list[str]:
    """A few draws of the first prompts, picked by their weights; none of a prompt without any."""
    from posteriori.core.rows_of_prompts import rows_of_prompts

    lines = []
    named = zip(draws.completions.prompt_set, rows_of_prompts(draws.completions), strict=True)
    for prompt, rows in list(named)[:_PROMPTS]:
        log_w_n = draws.log_weight[rows].cpu()
        if not bool((log_w_n > -math.inf).any()):
            continue
        text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
        for row in rows[_typical(log_w_n)].tolist():
            said = f"{text[-_WIDTH:]!r} -> {draws.texts[row]!r}"
            lines.append(said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…")
    return ["some draws, by weight:", *lines] if lines else []


def _typical(log_w_n: Tensor) -> Tensor:
    """Places in the middle of equal shares of the weight: by their weights, and without chance."""
    share_n = log_w_n.softmax(0).cumsum(0)
    points = (share_n.new_tensor(range(_EACH)) + 0.5) / _EACH
    places = (points[:, None] > share_n / share_n[-1]).sum(1)
    return places.unique()


def draws_json(draws: Draws) -> dict[str, Any]:
    """What `--json` prints; infinities and NaN as strings."""
    from posteriori.runs.directory import jsonable

    rows = [{k: v for k, v in row.items() if k != "log_z_shown"} for row in _per_prompt(draws)]
    return jsonable(
        {
            "guarantee": draws.guarantee,
            "prompts": rows,
            "cost": vars(draws.cost),
            "findings": [finding_json(finding) for finding in draws.findings],
        }
    )


def _per_prompt(draws: Draws) -> list[dict[str, Any]]:
    from posteriori.core.numerics import ess
    from posteriori.core.rows_of_prompts import rows_of_prompts

    completions = draws.completions
    log_z = draws.log_z.per_prompt if draws.log_z is not None else ()
    found = []
    for at, prompt in enumerate(completions.prompt_set):
        rows = rows_of_prompts(completions)[at]
        log_w_n = draws.log_weight[rows]
        weighted = bool((log_w_n > -math.inf).any())
        reward = float((log_w_n.softmax(0) * draws.reward_N[rows]).sum()) if weighted else math.nan
        ids = {tuple(draws.completion_ids[row]) for row in rows.tolist()}
        estimate = log_z[at] if log_z else None
        found.append(
            {
                "prompt": prompt if isinstance(prompt, str) else str(prompt[-1]["content"]),
                "draws": len(log_w_n),
                "effective": float(ess(log_w_n)) if weighted else 0.0,
                "distinct": len(ids),
                "mean_reward": reward,
                "log_z": None if estimate is None else estimate.value,
                "log_z_standard_error": None if estimate is None else estimate.standard_error,
                "log_z_kind": None if estimate is None else estimate.kind,
                "log_z_shown": "" if estimate is None else shown(estimate),
            }
        )
    return found
