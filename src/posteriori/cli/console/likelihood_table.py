"""What demonstrations are worth to a model before and after it was trained on others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from .output import stdout, visible
from .report_table import shown

if TYPE_CHECKING:
    from posteriori.train.fit_result import Fit


def print_likelihood(fit: Fit) -> None:
    """Nats per completion and per token, before and after, and how much was gained."""
    console, found = stdout(), fit.likelihood
    assert found is not None
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for header in ("-log pi of demonstrations, nats", "before", "after"):
        table.add_column(header, justify="left" if header[0] == "-" else "right", no_wrap=True)
    table.add_row("per completion", shown(found.before), shown(found.after))
    table.add_row("per token", f"{found.per_token_before:.4g}", f"{found.per_token_after:.4g}")
    rows = "held-out rows" if found.held_out else "the rows that it was trained on"
    console.print(f"{len(fit.history)} steps, judged by {found.num_rows} {rows}", soft_wrap=True)
    console.print(table)
    console.print(f"KL(data, pi) has fallen by {shown(found.gain)} nats", soft_wrap=True)
    for finding in fit.findings:
        console.print(Text(visible(str(finding))), soft_wrap=True)
