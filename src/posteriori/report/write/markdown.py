"""The report as Markdown, and as the model card of the policy that it is about."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from posteriori.errors import ConfigError
from posteriori.report.result import PolicyResult, Subject
from posteriori.report.safe_text import number, one_line, prompt_label, visible, with_error

from .comparison_tables import comparison, costs, findings, samplers
from .page import HERE
from .settings_table import settings, versions
from .verdict import verdict

_SAMPLES = 3
"""Completions of each policy that Markdown shows."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|<>&~^$!])")


def markdown(subject: Subject) -> str:
    """What the page says, without its figures: they are in the CSV files, as numbers."""
    return _render("report.md", **_context(subject))


def model_card(subject: Subject) -> str:
    """A README.md for the policy's folder, as the Hugging Face hub reads it.

    Its front matter names the base model, the library that loads it and the tags. Raises
    `ConfigError` for anything but a single run with one policy.
    """
    started = [config.get("start") is not None for config in subject.settings.values()]
    number = len(subject.results) - sum(started)
    if len(subject.settings) != 1 or number != 1:
        raise ConfigError(
            f"a model card is about one policy, and here are {number}",
            where="--format model-card",
            hint="name one run",
        )
    from huggingface_hub import ModelCardData

    (config,) = subject.settings.values()
    adapter = config.get("policy") == "lora"
    objective = config.get("objective")
    named = [str(objective)] if isinstance(objective, str) else []
    front = ModelCardData(
        base_model=_model_name(subject.base_model) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["posteriori", *named, *(["lora"] if adapter else [])],
    )
    return _render(
        "card.md",
        front=front.to_yaml(),
        adapter=adapter,
        base_model=_model_name(subject.base_model),
        **_context(subject),
    )


def _model_name(path: str) -> str:
    """A hub id as it is; of a folder on some machine, its name."""
    return PurePath(path).name if PurePath(path).is_absolute() else path


def _context(subject: Subject) -> dict[str, Any]:
    everyone = subject.everyone
    shared, differing = settings(subject.settings)
    points = [] if subject.curve is None else list(subject.curve.points)
    every = max(1, len(points) // 8)
    return {
        "title": one_line(subject.title, 120),
        "verdict": verdict(subject.results, subject.prior, subject.samplers),
        "about": visible(subject.about),
        "names": [one_line(each.name) for each in everyone],
        "descriptions": [one_line(each.description, 200) for each in everyone],
        "comparison": comparison(everyone),
        "findings": findings(subject),
        "samplers": samplers(subject.samplers),
        "points": [
            [number(p.beta), with_error(p.kl), with_error(p.reward)]
            for p in points[every - 1 :: every]
        ],
        "samples": [_samples(subject, each) for each in everyone if len(each.drawn)],
        "costs": costs(everyone),
        "config": shared,
        "differing": differing,
        "runs": [one_line(name) for name in subject.settings],
        "versions": versions(subject.versions),
    }


def _samples(subject: Subject, policy: PolicyResult) -> dict[str, Any]:
    return {
        "name": one_line(policy.name),
        "rows": [
            [
                prompt_label(subject.prompts[each.prompt_index], 120),
                one_line(each.completion, 300) or "(empty)",
                number(each.reward, 2),
            ]
            for each in policy.drawn.records[:_SAMPLES]
        ],
    }


def _plain(text: Any) -> str:
    """Text that Markdown renders as it is: what could be markup is escaped, and it is one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _render(template: str, **context: Any) -> str:
    environment = Environment(  # noqa: S701 - Markdown; each text goes through `plain`
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _plain
    return environment.get_template(template).render(**context)
