"""What a run leaves for its report: draws and the frontier as files, and the page made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..diagnostics.evaluate import Report
    from ..target import Target

OWN = "posteriori from the run's own files"
"""What every model card of ours says of itself."""


def write_report_files(folder: Path, target: Target, reports: Mapping[str, Report]) -> None:
    """samples.jsonl, the first draws of each model; and frontier.json, by those of the prior.

    Both whole or not at all. Without a frontier where there are too few draws to know one.
    """
    from ..diagnostics.frontier import FEWEST, frontier_of
    from ..report.drawn import MOST, Drawn
    from ..train.run_dir import jsonable, write_whole
    from .frontier import frontier_json

    lines = (
        json.dumps(jsonable(record.model_dump()), allow_nan=False) + "\n"
        for name, report in reports.items()
        for record in Drawn.of(report.draws, name, MOST).records
    )
    write_whole(folder / "samples.jsonl", "".join(lines))
    draws = reports["prior"].draws
    if len(draws) >= FEWEST * len(draws.completions.prompt_set):
        curve = frontier_json(frontier_of(target, draws))
        write_whole(folder / "frontier.json", json.dumps(curve, indent=2, allow_nan=False) + "\n")
    else:
        (folder / "frontier.json").unlink(missing_ok=True)


def write_page(folder: Path, *, card: bool) -> Path:
    """report.html, as `posteriori report` makes it of the folder's files; returns its path.

    With `card` also policy/README.md, what is known of the policy, unless somebody else wrote one.
    """
    from ..report import gather, write_report
    from ..report.markdown import model_card
    from ..train.run_dir import write_whole

    subject = gather([folder])
    readme = folder / "policy" / "README.md"
    if card and (not readme.exists() or OWN in readme.read_text(encoding="utf-8", errors="ignore")):
        write_whole(readme, model_card(subject))
    return write_report(folder / "report.html", subject)
