"""How results look at a prompt and in a notebook: short, and never a dump of tensors."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posteriori.core.tensors import floats

if TYPE_CHECKING:
    from posteriori.core.types import Draws, Estimate, Finding

_STYLE = "text-align:left;padding:1px 12px 1px 0"


class ShownDraws:
    """What `Draws` show of themselves, and the tables of other packages they become."""

    def __repr__(self) -> str:
        draws: Draws = self  # pyright: ignore[reportAssignmentType]
        shown = [f"{len(draws):,} of {counted(len(draws.completions.prompt_set), 'prompt')}"]
        shown += [str(draws.guarantee)] if draws.guarantee else []
        shown += [f"log Z {draws.log_z}"] if draws.log_z is not None else []
        shown += [counted(len(draws.findings), "finding")] if draws.findings else []
        return f"Draws({', '.join(shown)})"

    def _repr_html_(self) -> str:
        draws: Draws = self  # pyright: ignore[reportAssignmentType]
        first = [
            (_line(prompt), draws.completions.select([at]).texts[0], f"{reward:.3g}")
            for at, (prompt, reward) in enumerate(
                zip(draws.prompts[:_FIRST], floats(draws.reward_N[:_FIRST]), strict=True)
            )
        ]
        table = html_table(("prompt", "completion", "reward"), first)
        return f"<p>{html.escape(repr(draws))}</p>{table}{html_findings(draws.findings)}"

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row per draw. Raises `ConfigError` without pandas."""
        from .frames import frame_of_draws

        return frame_of_draws(self)  # pyright: ignore[reportArgumentType]

    def to_inference_data(self) -> Any:
        """ArviZ's InferenceData: see `frames.inference_data_of_draws`."""
        from .frames import inference_data_of_draws

        return inference_data_of_draws(self)  # pyright: ignore[reportArgumentType]


_FIRST = 5


def short_figures(figures: Mapping[str, Estimate]) -> str:
    """The figures that say most, in one line."""
    names = {"kl_to_target": "KL to target", "kl_to_prior": "KL to prior", "mean_reward": "reward"}
    return ", ".join(f"{label} {figures[name]}" for name, label in names.items() if name in figures)


def html_figures(figures: Mapping[str, Estimate]) -> str:
    rows = [(name, str(each), each.kind) for name, each in figures.items()]
    return html_table(("figure", "value ± standard error", "kind"), rows)


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; whatever a model wrote is text to it."""
    head = "".join(f'<th style="{_STYLE}">{html.escape(each)}</th>' for each in header)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{_STYLE}">{html.escape(str(each))}</td>' for each in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_findings(findings: Iterable[Finding]) -> str:
    items = "".join(f"<li>{html.escape(str(each))}</li>" for each in findings)
    return f"<ul>{items}</ul>" if items else ""


def html_plane(figures: Mapping[str, Estimate]) -> str:
    """Where the policy stands in the plane of KL from the prior and reward, with its error bars."""
    if "kl_to_prior" not in figures or "mean_reward" not in figures:
        return ""
    kl, reward = figures["kl_to_prior"], figures["mean_reward"]
    right = max(kl.value + 2 * _error(kl), 0.1) * 1.15
    spread = max(2 * _error(reward), 0.05 * abs(reward.value), 1e-3)
    low, high = reward.value - 2 * spread, reward.value + 2 * spread
    if not all(abs(each) < 1e300 for each in (right, low, high)):
        return ""

    def x(value: float) -> float:
        return 60 + 300 * min(max(value, 0.0), right) / right

    def y(value: float) -> float:
        return 150 - 130 * (value - low) / (high - low)

    bar = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#2a6fdb"/>'
    at_x, at_y = x(kl.value), y(reward.value)
    return (
        '<svg width="380" height="190" role="img" font-family="sans-serif" font-size="11">'
        f"<title>reward {html.escape(str(reward))} at a KL of {html.escape(str(kl))} nats</title>"
        '<path d="M60 20V150H365" fill="none" stroke="currentColor"/>'
        + bar.format(x(kl.value - 2 * _error(kl)), at_y, x(kl.value + 2 * _error(kl)), at_y)
        + bar.format(at_x, y(reward.value - spread), at_x, y(reward.value + spread))
        + f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4" fill="#2a6fdb"/>'
        f'<text x="60" y="165" fill="currentColor">0</text>'
        f'<text x="330" y="165" fill="currentColor">{right:.3g}</text>'
        f'<text x="130" y="182" fill="currentColor">KL from the prior, nats</text>'
        f'<text x="2" y="{y(low):.0f}" fill="currentColor">{low:.3g}</text>'
        f'<text x="2" y="{y(high) + 8:.0f}" fill="currentColor">{high:.3g}</text>'
        '<text x="64" y="16" fill="currentColor">mean reward</text></svg>'
    )


def _error(estimate: Estimate) -> float:
    error = estimate.standard_error
    return error if error == error and error < 1e300 else 0.0


def counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _line(prompt: Any) -> str:
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
    return text if len(text) <= 80 else f"…{text[-79:]}"
