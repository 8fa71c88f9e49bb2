"""The tutorials are notebooks that run, in seconds; the site shows what comes out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
docs_tutorials = pytest.importorskip("docs_tutorials")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    return docs_tutorials.run(docs_tutorials.tutorials(), tmp_path_factory.mktemp("run"))


def test_five_run_to_their_ends(books):
    assert [name[0] for name in books] == ["1", "2", "3", "4", "5"]
    for name, book in books.items():
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), name
        assert sum(bool(cell.outputs) for cell in code) >= len(code) // 2, name


def test_a_page_shows_what_came_out(books):
    name, book = next(iter(books.items()))
    text = docs_tutorials.as_markdown(book, name)
    assert "Target(CausalLM x [reward function 'warmth'], 2 prompts" in text
    assert '<div class="output"' in text
    assert f"]({name}.ipynb)" in text
