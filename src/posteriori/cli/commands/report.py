"""`posteriori report`: one page on one or several runs, made from their files alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.options import AsJson, Quiet
from posteriori.cli.several import single
from posteriori.errors import ConfigError

if TYPE_CHECKING:
    from posteriori.report import PolicyResult, Subject


class Format(StrEnum):
    """What can be written."""

    HTML = "html"
    MARKDOWN = "markdown"
    MODEL_CARD = "model-card"
    CSV = "csv"


_FILES = {Format.HTML: "report.html", Format.MARKDOWN: "report.md", Format.MODEL_CARD: "README.md"}


@single
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders that fit or the demo wrote, and files of draws that sample did.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file, or the folder for csv; by default in a run that is alone, else here.",
        ),
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="csv writes one file per figure.")
    ] = Format.HTML,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Report on runs side by side: a page that needs nothing else, or Markdown, a model card, CSV.

    Files of draws are samplers beside the runs, or alone. No model is loaded: everything comes from
    the files.
    """
    path = _where(runs, output, form)
    from posteriori.cli.console.progress_bar import status
    from posteriori.report import gather

    subject = gather(runs)
    with status(f"writing {path}", quiet=quiet):
        written = _write(subject, form, path)
    from posteriori.report.write.verdict import verdict

    sentence = verdict(subject.results, subject.prior, subject.samplers)
    if as_json:
        print_json(_json(subject, sentence, form, written))
    else:
        console = stdout()
        console.print(visible(sentence), soft_wrap=True)
        for each in written:
            console.print(visible(str(each)), soft_wrap=True)
    found = [finding for each in subject.everyone for finding in each.findings]
    return 1 if any(finding.level == "stop" for finding in found) else 0


def _where(runs: list[Path], output: Path | None, form: Format) -> Path:
    """Raises `ConfigError` before any work where nothing could be written."""
    folder = runs[0] if len(runs) == 1 and not runs[0].is_file() else Path()
    path = output or folder / _FILES.get(form, "figures")
    if form is Format.CSV and path.exists() and not path.is_dir():
        raise ConfigError(f"'{path}' is a file", where="--output", hint="csv needs a folder")
    if form is not Format.CSV and path.is_dir():
        raise ConfigError(
            f"'{path}' is a folder", where="--output", hint=f"name a file in it, {_FILES[form]}"
        )
    if output is not None and not path.parent.is_dir():
        raise ConfigError(
            f"there is no directory '{path.parent}'", where="--output", hint="make it first"
        )
    return path


def _write(subject: Subject, form: Format, path: Path) -> list[Path]:
    if form is Format.HTML:
        from posteriori.report import write_report

        return [write_report(path, subject)]
    if form is Format.CSV:
        from posteriori.report.write.csv_files import write_csv

        return write_csv(path, subject)
    from posteriori.report.write.markdown import markdown, model_card
    from posteriori.runs.directory import write_whole

    write_whole(path, markdown(subject) if form is Format.MARKDOWN else model_card(subject))
    return [path]


def _json(subject: Subject, sentence: str, form: Format, written: list[Path]) -> dict[str, Any]:
    from posteriori.report.draw.plane import why_not
    from posteriori.runs.directory import jsonable

    return jsonable(
        {
            "verdict": sentence,
            "format": form.value,
            "output": [str(each) for each in written],
            "policies": {
                each.name: _result_json(each) for each in subject.everyone if each.sampler is None
            },
            "samplers": {
                each.name: {
                    **_result_json(each),
                    "guarantee": None if each.sampler is None else each.sampler.guarantee,
                    "why_not_in_plane": why_not(each) or None,
                }
                for each in subject.samplers
            },
        }
    )


def _result_json(result: PolicyResult) -> dict[str, Any]:
    from posteriori.cli.console.report_table import estimate_json, finding_json

    return {
        "description": result.description,
        "figures": {name: estimate_json(e) for name, e in result.figures.items()},
        "findings": [finding_json(finding) for finding in result.findings],
    }
