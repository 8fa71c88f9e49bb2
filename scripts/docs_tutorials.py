"""The tutorials of the docs: Markdown that is a notebook (jupytext), run when the site is built.

A mkdocs hook. With DOCS_EXECUTE=0 nothing is run, and pages show their code alone.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
_SECONDS = 300
"""Of one cell, before it counts as hanging."""
_LONGEST = 4000
"""Characters of an output that a page shows."""


def tutorials() -> dict[str, Any]:
    """The notebooks by their names, in order, not run."""
    return {path.stem: jupytext.read(path) for path in sorted(FOLDER.glob("[0-9]*.md"))}


def run(books: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """The same with their outputs. One kernel runs one after the other, with its names cleared in
    between, in `folder`: importing torch takes longer than most cells."""
    cells = []
    for book in books.values():
        cells += [nbformat.v4.new_code_cell("%reset -f"), *book.cells]
    whole = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        whole,
        timeout=_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, "POSTERIORI_PROGRESS": "off"})
    return books


def as_markdown(book: Any, name: str) -> str:
    """A notebook as Markdown, each cell's output below it, and a link to it."""
    parts = []
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += [_shown(each) for each in cell.outputs]
    parts.append(f"[This page as a Jupyter notebook]({name}.ipynb)")
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(output: Any) -> str:
    if output.get("name") == "stderr":
        return ""
    data = output.get("data", {})
    if "text/html" in data:
        html = data["text/html"].replace("\n", "")
        return f'<div class="output" tabindex="0">{html}</div>'
    text = output.text if output.output_type == "stream" else data.get("text/plain", "")
    text = text.rstrip()
    return f"````text\n{text[:_LONGEST]}\n````" if text else ""


@cache
def _built() -> dict[str, Any]:
    books = tutorials()
    if os.environ.get("DOCS_EXECUTE", "1") != "0":
        with tempfile.TemporaryDirectory() as folder:
            run(books, folder)
    return books


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Each page can be had as a notebook."""
    for name, book in _built().items():
        text = nbformat.writes(book)
        files.append(File.generated(config, f"tutorials/{name}.ipynb", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its outputs."""
    path = Path(page.file.src_uri)
    if path.parent.name != FOLDER.name or path.stem not in _built():
        return markdown
    return as_markdown(_built()[path.stem], path.stem)
