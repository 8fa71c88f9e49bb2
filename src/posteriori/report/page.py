"""The page: one HTML file that opens anywhere, asks for nothing and runs only its own script.

Whatever a model wrote is text to the page: Jinja escapes it, and a Content-Security-Policy names by
hash the only style sheet and the only script that may act, so that even a mistake here would be
inert. The file is plain ASCII (other characters as references), so no encoding can spoil it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..target import Target
from ..train.run_dir import write_whole
from .captions import views
from .figures import entries
from .result import PolicyResult
from .samples import samples
from .tables import KINDS, by_prompt, comparison, costs, flat
from .text import number, one_line, visible
from .theme import DARK, DASHES, LIGHT, MARKERS, Theme
from .verdict import verdict

_HERE = Path(__file__).parent
_LEVELS = ("stop", "warn", "info")


def write_report(
    path: Path | str,
    *,
    title: str,
    target: Target,
    results: Sequence[PolicyResult],
    prior: PolicyResult | None = None,
    config: Mapping[str, Any],
    versions: Mapping[str, Any],
) -> Path:
    """Write the report on `results` (and the `prior` to compare with) to `path`; returns the path.

    `target` gives the prompts. Where the policies have targets of their own (another beta), each
    is judged by its own report, and the page says so. The same input makes the same bytes. The
    folder is made if it is missing, and the file appears under its name only when complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    html = _render(
        title=one_line(title, 120) or "Report",
        verdict=verdict(results, prior),
        about=_about(target, results),
        policies=[_head(result, index) for result, index in entries(results, prior)],
        findings=_findings(results, prior),
        figures=views(results, prior),
        kinds=KINDS,
        config=flat(config),
        versions=flat(versions),
        **_tables(target, [result for result, _ in entries(results, prior)]),
    )
    write_whole(path, html.encode("ascii", "xmlcharrefreplace").decode("ascii"))
    return path


def _render(**context: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _palette() + (_HERE / "style.css").read_text(encoding="ascii")
    script = (_HERE / "page.js").read_text(encoding="ascii")
    return environment.get_template("template.html").render(
        policy=(
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'"
        ),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        **context,
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _palette() -> str:
    """The figures' colours as the style sheet's variables, light and dark."""

    def variables(theme: Theme) -> str:
        series = "".join(f"--series-{i}:{color};" for i, color in enumerate(theme.series))
        return f":root{{--series-prior:{theme.muted};{series}}}"

    dark = f"@media screen and (prefers-color-scheme:dark){{{variables(DARK)}}}"
    return f"{variables(LIGHT)}\n{dark}\n"


def _tables(target: Target, policies: Sequence[PolicyResult]) -> dict[str, Any]:
    groups = samples(policies, target)
    return {
        "comparison": comparison(policies),
        "by_prompt": by_prompt(policies, target),
        "num_prompts": len(target.prompts),
        "samples": groups,
        "max_new_tokens": target.max_new_tokens,
        "num_samples": sum(cell is not None for g in groups for row in g["rows"] for cell in row),
        "costs": costs(policies),
    }


def _head(result: PolicyResult, index: int | None) -> dict[str, Any]:
    """A policy at the head of a column, with the style that it has in the figures."""
    return {
        "name": one_line(result.name),
        "description": visible(result.description, 300),
        "series": "prior" if index is None else str(index % len(LIGHT.series)),
        "shape": "prior" if index is None else str(index % len(MARKERS)),
        "dash": "prior" if index is None else str(index % len(DASHES)),
    }


def _findings(results: Sequence[PolicyResult], prior: PolicyResult | None) -> list[dict[str, str]]:
    """All findings with their policy's name, the gravest first."""
    found = [
        {
            "policy": one_line(result.name),
            "level": finding.level,
            "message": visible(finding.message),
            "hint": visible(finding.hint),
        }
        for result, _ in entries(results, prior)
        for finding in result.report.findings
    ]
    return sorted(found, key=lambda each: _LEVELS.index(each["level"]))


def _about(target: Target, results: Sequence[PolicyResult]) -> str:
    """What was aligned to what, in one line."""
    evidence = ", ".join(
        one_line(getattr(each, "name", type(each).__name__), 80) for each in target.evidence
    )
    betas = sorted({b for each in target.evidence if (b := getattr(each, "beta", None))})
    at = f" at beta {', '.join(number(b) for b in betas)}" if len(betas) == 1 else ""
    policies = f"{len(results)} {'policy' if len(results) == 1 else 'policies'}"
    return (
        f"{policies}, {_plural(len(target.prompts), 'prompt')}, completions of up to "
        f"{_plural(target.max_new_tokens, 'token')}. "
        f"The target is the prior times its evidence: {evidence or 'none'}{at}."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
