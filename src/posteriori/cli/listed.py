"""What there is by name, with one line each. Sources are read, never imported."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

from posteriori.models.bundled import bundled_models, describe

KINDS = ("objectives", "samplers", "evidence", "twists", "models", "reward_models")


def listed(kind: str) -> dict[str, str]:
    """Names of a kind of thing, each with its line."""
    from posteriori.core import registry

    of = kind.removesuffix("s").replace("_", " ")
    registry.check_names(of)
    found = {
        name: _described(place, by_class=of == "twist") + registry.package_of(of, name)
        for name, place in sorted(registry.names(of).items())
    }
    if kind == "models":
        return {**{name: describe(path) for name, path in bundled_models().items()}, **found}
    return {**found, **_ready_made()} if kind == "evidence" else found


def _ready_made() -> dict[str, str]:
    """Evidence that needs no function of one's own: `constraint.regex` is kind = "constraint" with
    the key regex."""
    from posteriori.core import registry
    from posteriori.core.settings.ways import Way

    return {
        f"{kind}.{way.own}": f"Ready-made, {way.own} = ...: {way.says}"
        for kind in registry.EVIDENCE
        for way in registry.configured("evidence", kind).models()
        if issubclass(way, Way) and way.says
    }


def _described(place: str, *, by_class: bool) -> str:
    """The first line of a class's module (`by_class`: its own), and what it minimises or promises;
    its place if it has no source."""
    module, _, attribute = place.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        tree = ast.parse(Path(spec.origin or "").read_text(encoding="utf-8"))
    except (ImportError, AssertionError, OSError, SyntaxError, ValueError):
        return f"from {place}"
    described = [each for each in tree.body if by_class and isinstance(each, ast.ClassDef)]
    words = next((ast.get_docstring(each) for each in described if each.name == attribute), None)
    words = words or ast.get_docstring(tree)
    line = (words or "").partition("\n")[0].rstrip(".")
    divergence = _constant(tree, attribute, "divergence")
    if divergence:
        return f"{line}: minimises {divergence}"
    guarantee = _constant(tree, attribute, "guarantee")
    return f"{line} ({guarantee.replace('_', ' ')})" if guarantee else line


def _constant(tree: ast.Module, class_name: str, name: str) -> Any:
    """The literal that a class body gives a name, if it gives one."""
    for statement in tree.body:
        if not (isinstance(statement, ast.ClassDef) and statement.name == class_name):
            continue
        for inner in statement.body:
            if not isinstance(inner, ast.Assign | ast.AnnAssign):
                continue
            named = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
            if isinstance(inner.value, ast.Constant) and any(
                isinstance(each, ast.Name) and each.id == name for each in named
            ):
                return inner.value.value
    return None
