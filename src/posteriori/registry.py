"""Names: of objectives, samplers, evidence and bundled models, each "module:attribute", loaded when asked.

Other packages add theirs by entry points in the groups `posteriori.objectives`,
`posteriori.samplers` and `posteriori.evidence`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import unknown_name

OBJECTIVES = {
    "rl": "posteriori.objectives.rl:RL",
    "reinforce": "posteriori.objectives.reinforce:Reinforce",
    "rloo": "posteriori.objectives.rloo:RLOO",
}
EVIDENCE = {
    "reward": "posteriori.evidence.reward:Reward",
    "likelihood": "posteriori.evidence.likelihood:Likelihood",
    "constraint": "posteriori.evidence.constraint:Constraint",
}
SAMPLERS = {
    "importance": "posteriori.samplers.importance:Importance",
}
_BUILT_IN = {"objective": OBJECTIVES, "evidence": EVIDENCE, "sampler": SAMPLERS}
_GROUPS = {
    "objective": "posteriori.objectives",
    "evidence": "posteriori.evidence",
    "sampler": "posteriori.samplers",
}


def names(kind: str) -> dict[str, str]:
    """Every known name of a kind ("objective", "sampler", "evidence") with where it lives."""
    plugins = {point.name: point.value for point in entry_points(group=_GROUPS[kind])}
    return {**plugins, **_BUILT_IN[kind]}


def find(kind: str, name: str) -> Any:
    """What `name` stands for; an unknown one raises `UnknownNameError`."""
    known = names(kind)
    if name not in known:
        raise unknown_name(kind, name, known)
    module, _, attribute = known[name].partition(":")
    return getattr(import_module(module), attribute)
