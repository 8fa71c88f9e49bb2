"""A reward model's figures: live while it trains, a table in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from .output import stdout, visible
from .progress_bar import count_progress
from .report_table import shown

if TYPE_CHECKING:
    from posteriori.reward_models.fit_reward import RewardFit


@contextmanager
def reward_progress(
    epochs: int, num_pairs: int, batch_size: int, *, quiet: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """An `on_step` callback: how many steps of at most so many are done."""
    most = epochs * math.ceil(num_pairs / batch_size)
    with count_progress("reward", quiet=quiet) as on_progress:
        yield lambda record: on_progress(record["step"] + 1, most)


def print_reward(fit: RewardFit) -> None:
    """Losses, accuracy and calibration, before and after temperature scaling."""
    console, held_out = stdout(), fit.held_out
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for header in ("", "as trained", f"at temperature {held_out.temperature:.3g}"):
        table.add_column(header, justify="left" if header == "" else "right", no_wrap=True)
    table.add_row("training log-loss, nats", f"{fit.train_loss:.4f}", "")
    table.add_row(
        "held-out log-loss, nats", shown(held_out.log_loss), shown(held_out.log_loss_scaled)
    )
    table.add_row("held-out accuracy", shown(held_out.accuracy), "the same")
    table.add_row("calibration error", f"{held_out.ece:.4f}", f"{held_out.ece_scaled:.4f}")
    console.print(
        f"{fit.num_train} pairs to train on, {held_out.num_pairs} held out "
        f"(prompts: {held_out.num_prompts}), {len(fit.history)} steps",
        soft_wrap=True,
    )
    console.print(table)
    for finding in fit.findings:
        console.print(Text(visible(str(finding))), soft_wrap=True)
    console.print(f"reward model: {visible(str(fit.output_dir))}", soft_wrap=True)


def reward_json(fit: RewardFit) -> dict[str, Any]:
    """What `--json` prints: all of `reward.json`, and where it lies."""
    return {**fit.about(), "steps": len(fit.history), "output": str(fit.output_dir)}
