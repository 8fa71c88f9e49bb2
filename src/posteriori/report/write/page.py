"""The page: one HTML file that opens anywhere, asks for nothing and runs only its own script.

Whatever a model wrote is text to the page: Jinja escapes it, and a Content-Security-Policy names by
hash the only style sheet and the only script that may act, so that even a mistake here would be
inert. The file is plain ASCII (other characters as references), so no encoding can spoil it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from posteriori.report.draw.captions import views
from posteriori.report.draw.figures import entries
from posteriori.report.draw.theme import DARK, DASHES, LIGHT, MARKERS, SAMPLER_MARKERS, Theme
from posteriori.report.result import PolicyResult, Subject
from posteriori.report.safe_text import one_line, visible
from posteriori.runs.directory import write_whole

from .comparison_tables import KINDS, by_prompt, comparison, costs, findings, samplers
from .completions import inert, samples
from .content_policy import content_policy
from .settings_table import settings, versions
from .verdict import verdict

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "figures.js")


def write_report(path: Path | str, subject: Subject) -> Path:
    """Write the page on `subject` to `path`; returns the path.

    Where the policies have targets of their own (another beta), each is judged by its own, and the
    page says so. The same input makes the same bytes. The folder is made if it is missing, and the
    file appears under its name only when complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    everyone = subject.everyone
    shared, differing = settings(subject.settings)
    figures = views(subject)
    html = _render(
        title=one_line(subject.title, 120) or "Report",
        verdict=verdict(subject.results, subject.prior, subject.samplers),
        about=visible(subject.about),
        policies=[
            _head(each, index)
            for each, index in entries(subject.results, subject.prior, subject.samplers)
        ],
        samplers=samplers(subject.samplers),
        findings=findings(subject),
        figures=figures,
        marks=inert({each.name: [mark.listed() for mark in each.marks] for each in figures}),
        kinds=KINDS,
        comparison=comparison(everyone),
        by_prompt=by_prompt(everyone, subject),
        num_prompts=subject.num_prompts,
        samples=samples(subject),
        costs=costs(everyone),
        runs=[one_line(name) for name in subject.settings],
        config=shared,
        differing=differing,
        versions=versions(subject.versions),
    )
    write_whole(path, html.encode("ascii", "xmlcharrefreplace").decode("ascii"))
    return path


def _render(**context: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _palette() + (HERE / "style.css").read_text(encoding="ascii")
    script = "".join((HERE / name).read_text(encoding="ascii") for name in SCRIPTS)
    return environment.get_template("template.html").render(
        policy=content_policy(style, script),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        **context,
    )


def _palette() -> str:
    """The figures' colours as the style sheet's variables, light and dark."""

    def variables(theme: Theme) -> str:
        series = "".join(f"--series-{i}:{color};" for i, color in enumerate(theme.series))
        return f":root{{--series-prior:{theme.muted};{series}}}"

    dark = f"@media screen and (prefers-color-scheme:dark){{{variables(DARK)}}}"
    return f"{variables(LIGHT)}\n{dark}\n"


def _head(result: PolicyResult, index: int | None) -> dict[str, Any]:
    """A policy or sampler at the head of a column, with the style that it has in the figures."""
    if result.sampler is not None and index is not None:
        return {
            "name": one_line(result.name),
            "description": visible(result.description, 300),
            "series": str(len(LIGHT.series) - 1 - index % len(LIGHT.series)),
            "shape": f"sampler-{index % len(SAMPLER_MARKERS)}",
            "dash": "",
        }
    return {
        "name": one_line(result.name),
        "description": visible(result.description, 300),
        "series": "prior" if index is None else str(index % len(LIGHT.series)),
        "shape": "prior" if index is None else str(index % len(MARKERS)),
        "dash": "prior" if index is None else str(index % len(DASHES)),
    }
