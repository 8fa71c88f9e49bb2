"""Rule models' figures: live while they train, a table in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from .output import stdout, visible
from .progress_bar import count_progress
from .report_table import shown

if TYPE_CHECKING:
    from posteriori.core.settings.training import FitRewardConfig
    from posteriori.reward_models.rules.fit_rules import RulesFit


@contextmanager
def rules_progress(
    labels: Mapping[str, Sequence[Any]], settings: FitRewardConfig, *, quiet: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """An `on_step` callback: how many steps of at most so many are done, over all rules."""
    most = {
        rule: settings.epochs * math.ceil(len(its) / settings.batch_size)
        for rule, its in labels.items()
    }
    order = list(most)
    with count_progress("rules", quiet=quiet) as on_progress:

        def on_step(record: dict[str, Any]) -> None:
            before = sum(most[rule] for rule in order[: order.index(record["rule"])])
            on_progress(before + record["step"] + 1, sum(most.values()))

        yield on_step


def print_rules(fit: RulesFit) -> None:
    """A line per rule: held-out accuracy, log-loss, and the temperature that calibrates it."""
    console = stdout()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for header in ("rule", "labels", "held out", "accuracy", "log-loss, nats", "temperature"):
        table.add_column(header, justify="left" if header == "rule" else "right")
    for rule, each in fit.fits.items():
        held_out = each.held_out
        table.add_row(
            visible(rule),
            str(each.num_train),
            str(held_out.num_pairs),
            shown(held_out.accuracy),
            shown(held_out.log_loss_scaled),
            f"{held_out.temperature:.3g}",
        )
    console.print(table)
    for finding in fit.findings:
        console.print(Text(visible(str(finding))), soft_wrap=True)
    console.print(f"rules: {visible(str(fit.output_dir))}", soft_wrap=True)


def rules_json(fit: RulesFit) -> dict[str, Any]:
    """What `--json` prints: all of each rule's `reward.json`, and where they lie."""
    of_rules = {
        rule: {**each.about(), "steps": len(each.history)} for rule, each in fit.fits.items()
    }
    return {"rules": of_rules, "output": str(fit.output_dir)}
