"""Folders and files stay small enough to be read, and each folder says what to read first."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "src" / "posteriori"
MOST_FILES, MOST_LINES, MEDIAN_LINES = 20, 400, 120


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def folders(parent: Path) -> list[Path]:
    return sorted({each.parent for each in modules(parent)})


def test_no_folder_has_many_files():
    many = {
        folder.relative_to(ROOT).as_posix(): number
        for parent in (PACKAGE, ROOT / "tests", ROOT / "benchmarks")
        for folder in folders(parent)
        if (number := len(list(folder.glob("*.py")))) > MOST_FILES
    }
    assert not many


def test_files_are_short():
    lines = {each: each.read_text(encoding="utf-8").count("\n") for each in modules(PACKAGE)}
    assert statistics.median(lines.values()) < MEDIAN_LINES
    assert not {each.name: number for each, number in lines.items() if number > MOST_LINES}
    of_tests = {
        each: each.read_text(encoding="utf-8").count("\n") for each in modules(ROOT / "tests")
    }
    assert not {each.name: number for each, number in of_tests.items() if number > MOST_LINES}


def test_each_folder_says_what_to_read_first():
    for folder in folders(PACKAGE):
        if folder == PACKAGE:
            continue
        words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert words, folder
        several = len(list(folder.glob("*.py"))) > 3
        assert not several or "first" in words, f"{folder}: which file to read first"


def test_every_import_is_seen_by_the_contract():
    """None is hidden from import-linter in a call."""
    hidden = [
        f"{each.relative_to(ROOT)}: {ast.unparse(call)}"
        for each in modules(PACKAGE)
        for call in ast.walk(ast.parse(each.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).split(".")[-1] in ("import_module", "__import__")
        and "posteriori" in ast.unparse(call)
    ]
    assert not hidden
