"""How figures are printed."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from posteriori.cli.tables import print_table, shown
from posteriori.types import Estimate


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


def test_names_are_printed_as_they_are():
    text = io.StringIO()
    console = Console(file=text, width=80, markup=False)
    report = {"my_figure": Estimate(1.0, 0.0, "exact", 1)}
    print_table(console, {"[bold]x\x1b": report}, title="[red]t")  # type: ignore[arg-type]
    assert "[red]t" in text.getvalue()
    assert "[bold]x\\x1b" in text.getvalue()
    assert "my_figure" in text.getvalue()
