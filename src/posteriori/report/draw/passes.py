"""pass@k against k, of policies that are right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from posteriori.core.types import Estimate
from posteriori.diagnostics.evaluate.pass_at_k import AT_K, bound_of_unsolved
from posteriori.report.result import PolicyResult
from posteriori.report.safe_text import number, one_line, with_error

from .figures import NAME, SIZE, add_legend, entries, error_bar, style_for
from .theme import Theme, label


def k_of(key: str) -> int:
    """The k of a figure's name."""
    return int(key.removeprefix(AT_K))


def passes(result: PolicyResult) -> dict[int, Estimate]:
    """pass@k by k; empty where the evidence is no verifier."""
    found = {k_of(key): each for key, each in result.figures.items() if key.startswith(AT_K)}
    return dict(sorted(found.items()))


def passes_figure(
    results: Sequence[PolicyResult], prior: PolicyResult | None, theme: Theme
) -> Figure:
    """A line per policy over k, with error bars."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots()
    every_k: set[int] = set()
    for entry in entries(results, prior):
        found, style = passes(entry[0]), style_for(entry, theme)
        if not found:
            continue
        every_k |= set(found)
        axes.errorbar(
            list(found),
            [each.value for each in found.values()],
            yerr=[error_bar(each.standard_error) for each in found.values()],
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            markersize=6,
            label=label(one_line(entry[0].name, NAME)),
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(every_k)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: number(k)))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(1.02, high))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set(xlabel="k", ylabel="of the prompts")
    add_legend(drawn, axes)
    return drawn


def unsolved(everyone: Sequence[PolicyResult]) -> str:
    """How many prompts no draw has solved, and what that says of each (the rule of three)."""
    words = []
    for each in everyone:
        first = passes(each).get(1)
        if first is None or not first.per_prompt:
            continue
        left = [one for one in first.per_prompt if one.value == 0]
        if not left:
            words.append(f"{one_line(each.name)} has solved every prompt")
            continue
        bound = bound_of_unsolved(max(1, first.num_draws // len(first.per_prompt)))
        words.append(
            f"{one_line(each.name)} has solved {len(first.per_prompt) - len(left)} of "
            f"{len(first.per_prompt)} prompts, and pass@1 of the others is below "
            f"{number(100 * bound, 2)}% each, with 95% confidence"
        )
    return "; ".join(words) + "." if words else ""


def pass_words(result: PolicyResult) -> str:
    shown = (f"{AT_K}{k} {with_error(e, percent=True)}" for k, e in passes(result).items())
    return f"{one_line(result.name)}: {', '.join(shown)}"
