"""Registry, cases and pages agree: what can be asked for by name is described."""

from __future__ import annotations

from pathlib import Path

import pytest

from posteriori.core.registry import EVIDENCE, OBJECTIVES, SAMPLERS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_on_its_page_and_in_the_readme(name):
    assert f"| `{name}` |" in (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_on_its_page(name):
    page = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert any(f"`{name}`" in heading for heading in headings)


@pytest.mark.parametrize("name", EVIDENCE)
def test_every_kind_of_evidence_is_on_its_page(name):
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert f"\n## `{name}`\n" in page


def test_every_algorithm_is_in_a_file_of_its_name():
    for kind in (OBJECTIVES, SAMPLERS, EVIDENCE):
        for name, place in kind.items():
            assert place.partition(":")[0].rpartition(".")[2] == name
