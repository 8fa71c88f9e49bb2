"""How figures are printed."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from posteriori.cli.console.report_table import MAIN, ROWS, SECTIONS, print_table, shown
from posteriori.core.types import Estimate
from posteriori.diagnostics.evaluate.metrics import FIGURES


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (1.23456, 0.0321, "1.235 ± 0.032"),
        (1234.5, 12.3, "1234 ± 12"),
        (0.5, 3.0, "0.5 ± 3.0"),
        (3e-40, 1.5e-40, "3e-40 ± 2e-40"),
        (2.0, 0.0, "2"),
        (math.inf, 0.0, "inf"),
        (-math.inf, math.inf, "-inf"),
        (0.623, math.nan, "0.62"),
    ],
)
def test_a_value_ends_where_its_error_begins(value, error, expected):
    assert shown(Estimate(value, error, "unbiased", 10)) == expected


def test_shares_are_in_per_cent():
    assert shown(Estimate(0.5, 0.01, "heuristic", 10), "unique_fraction") == "50.0 ± 1.0%"


def test_a_bound_is_shown_as_one():
    bound = Estimate(0.31415, 0.01, "upper_bound", 10)
    assert shown(bound, "wasted_nats") == "≤ 0.314"
    assert shown(bound, "log_z_upper") == "0.314 ± 0.010"
    assert shown(Estimate(0.5, 0.01, "unbiased", 10), "truncated") == "50.0 ± 1.0%"


@pytest.mark.parametrize("terminal", [True, False])
def test_five_policies_stay_readable_at_eighty_columns(terminal):
    """Every cell whole, on lines of at most 80, with its label at their start."""
    names = ["prior", *(f"runs/of/a/long/name/{i}/checkpoint-{100 * i}" for i in range(1, 6))]
    figures = {key: Estimate(1.23456, 0.0321, "unbiased", 10) for key in (*ROWS, "mine")}
    reports = dict.fromkeys(names, figures)
    text = io.StringIO()
    console = Console(file=text, width=80, markup=False, force_terminal=terminal, color_system=None)
    print_table(console, reports, title="t")  # type: ignore[arg-type]
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert text.getvalue().count("1.235 ± 0.032") == 6 * (len(figures) - 2)
    for i in range(1, 6):
        assert f"checkpoint-{100 * i}" in text.getvalue()
    of_kl = [line for line in lines if line.strip().startswith("KL to target, nats")]
    assert sum(line.count("±") for line in of_kl) == 6
    assert len(of_kl) <= 3


def test_the_main_figures_come_first():
    assert tuple(ROWS)[: len(MAIN)] == MAIN
    assert {"kl_to_target", "wasted_nats", "effective_beta", "log_z"} <= set(MAIN)
    assert set(FIGURES) | {"log_z_upper"} == set(ROWS)
    assert set(SECTIONS) <= set(ROWS)


def test_names_are_printed_as_they_are():
    text = io.StringIO()
    console = Console(file=text, width=80, markup=False)
    report = {"my_figure": Estimate(1.0, 0.0, "exact", 1)}
    print_table(console, {"[bold]x\x1b": report}, title="[red]t")  # type: ignore[arg-type]
    assert "[red]t" in text.getvalue()
    assert "[bold]x\\x1b" in text.getvalue()
    assert "my_figure" in text.getvalue()
