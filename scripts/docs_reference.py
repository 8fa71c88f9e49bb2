"""The reference pages of the docs, made from the package when the site is built (a mkdocs hook)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import posteriori
from posteriori.core import registry

_GROUPS = {
    "Targets and data": ("core", "config", "data", "errors"),
    "Models": ("models",),
    "Evidence": ("evidence", "moments", "relative", "reward_models"),
    "Fine-tuning": ("objectives", "train"),
    "Sampling": ("samplers",),
    "How far, and the frontier": ("diagnostics", "report"),
}
"""Pages of public names, by the package that they live in."""

_EXAMPLES = """The examples run, and share this:

```python
import posteriori as po

prior = po.TabularLM.random(["<eos>", "a", "b"], max_new_tokens=3, prompts=["x", "y"], seed=0)


def reward(completions, **_):
    return [float(text.count("a")) for text in completions]


target = po.Target(prior, po.Reward(reward, beta=0.5), ["x", "y"], max_new_tokens=3)
```
"""

_SETTINGS = {
    "objective": registry.OBJECTIVES,
    "sampler": registry.SAMPLERS,
    "twist": registry.TWISTS,
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, which has a place for them."""
    pages = [{title: _path(title)} for title in _GROUPS]
    for part in config.nav or []:
        if "Reference" in part:
            part["Reference"] = [*pages, {"Settings by name": "reference/settings.md"}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the pages: no file of them is kept."""
    left = dict(posteriori._WHERE)
    for title, packages in _GROUPS.items():
        own = {n: place for n, place in left.items() if place.partition(".")[0] in packages}
        left = {name: place for name, place in left.items() if name not in own}
        files.append(_page(config, _path(title), _names(title, own)))
    if left:
        raise ValueError(f"public names that no page of the reference has: {', '.join(left)}")
    files.append(_page(config, "reference/settings.md", _settings()))
    return files


def _path(title: str) -> str:
    words = "".join(c if c.isalpha() else " " for c in title.lower()).split()
    return f"reference/{'-'.join(words)}.md"


def _page(config: MkDocsConfig, path: str, text: str) -> File:
    return File.generated(config, path, content=text)


def _names(title: str, places: dict[str, str]) -> str:
    entries = (f"::: posteriori.{where}.{name}" for name, where in sorted(places.items()))
    return "\n\n".join(
        [f"# {title}", "Everything here is a name of `posteriori` itself.", _EXAMPLES, *entries]
    )


def _settings() -> str:
    """A table of the settings of each objective, sampler and twist."""
    parts = ["# Settings by name", "Also as JSON Schema, for editors: `posteriori config schema`."]
    for group, known in _SETTINGS.items():
        parts.append(f"## Each {group}'s own")
        for name in known:
            fields = registry.find(group, name).Settings.model_fields
            parts.append(f"### {group} `{name}`")
            parts.append(_table(fields) if fields else "No settings.")
    return "\n\n".join(parts)


def _table(fields: dict[str, Any]) -> str:
    rows = ["| setting | default | limits |", "|---|---|---|"]
    for name, field in fields.items():
        limits = ", ".join(_limits(field.metadata)) or " "
        rows.append(f"| `{name}` | `{field.get_default()!r}` | {limits} |")
    return "\n".join(rows)


def _limits(metadata: Iterable[Any]) -> Iterable[str]:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    for each in metadata:
        for name, words in signs.items():
            if hasattr(each, name):
                yield f"{words} {getattr(each, name)}"
