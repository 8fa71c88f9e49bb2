"""`posteriori ls`: what there is by name, one line each. Sources are read, never imported."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import registry
from ..errors import unknown_name
from .bundled import bundled_models, describe
from .options import AsJson
from .output import print_json, stdout, visible

KINDS = ("objectives", "samplers", "evidence", "models")


def ls(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help=f"One of: {', '.join(KINDS)}.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List objectives, samplers, evidence and bundled models."""
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of thing", kind, KINDS)
    found = {each: _lines(each) for each in ([kind] if kind else KINDS)}
    if as_json:
        print_json(found)
        return 0
    console = stdout()
    width = max(len(name) for lines in found.values() for name in lines)
    for each, lines in found.items():
        if kind is None:
            console.print(f"{each}:")
        for name, line in lines.items():
            indent = "  " if kind is None else ""
            console.print(f"{indent}{name:<{width}}  {visible(line)}", soft_wrap=True)
    return 0


def _lines(kind: str) -> dict[str, str]:
    if kind == "models":
        return {name: describe(path) for name, path in bundled_models().items()}
    places = registry.names(kind.removesuffix("s"))
    return {name: _described(place) for name, place in sorted(places.items())}


def _described(place: str) -> str:
    """The first line of a class's module and what it minimises; its place if it has no source."""
    module, _, attribute = place.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        tree = ast.parse(Path(spec.origin or "").read_text(encoding="utf-8"))
    except (ImportError, AssertionError, OSError, SyntaxError, ValueError):
        return f"from {place}"
    line = (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")
    divergence = _constant(tree, attribute, "divergence")
    return f"{line}: minimises {divergence}" if divergence else line


def _constant(tree: ast.Module, class_name: str, name: str) -> Any:
    """The literal that a class body gives a name, if it gives one."""
    for statement in tree.body:
        if not (isinstance(statement, ast.ClassDef) and statement.name == class_name):
            continue
        for inner in statement.body:
            if (
                isinstance(inner, ast.Assign)
                and isinstance(inner.value, ast.Constant)
                and any(isinstance(t, ast.Name) and t.id == name for t in inner.targets)
            ):
                return inner.value.value
    return None
