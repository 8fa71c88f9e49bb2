"""The code of pages that promise to run does run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.moves_rng  # drawing without a generator does so
@pytest.mark.parametrize(
    "name", ["chat.md", "data.md", "gpu.md", "notebooks.md", "plugins.md", "why.md"]
)
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    assert capsys.readouterr().out


def test_the_table_of_trls_names_and_what_is_told_agree():
    from posteriori.data.trl_names import name_here

    page = (DOCS / "from-trl.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert [name for name in names if name_here(name) is None] == []
