"""Names of objectives, samplers, evidence and twists, each "module:attribute", loaded when asked.

Other packages add theirs by entry points in the groups `posteriori.objectives`,
`posteriori.samplers`, `posteriori.evidence`, `posteriori.twists`, `posteriori.models` and
`posteriori.reward_models`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from posteriori.errors import ConfigError, unknown_name

from .settings.configured import Configured
from .settings.strict import Strict

if TYPE_CHECKING:
    from .protocols import LanguageModel

MadeT = TypeVar("MadeT")

OBJECTIVES = {
    "rl": "posteriori.objectives.policy_gradient.rl:RL",
    "reinforce": "posteriori.objectives.policy_gradient.reinforce:Reinforce",
    "rloo": "posteriori.objectives.policy_gradient.rloo:RLOO",
    "grpo": "posteriori.objectives.policy_gradient.grpo:GRPO",
    "gspo": "posteriori.objectives.policy_gradient.gspo:GSPO",
    "cispo": "posteriori.objectives.policy_gradient.cispo:CISPO",
    "ppo": "posteriori.objectives.policy_gradient.ppo:PPO",
    "vargrad": "posteriori.objectives.balance.vargrad:VarGrad",
    "tb": "posteriori.objectives.balance.tb:TB",
    "subtb": "posteriori.objectives.balance.subtb:SubTB",
    "a_star_po": "posteriori.objectives.balance.a_star_po:AStarPO",
    "rebel": "posteriori.objectives.balance.rebel:REBEL",
    "dpg": "posteriori.objectives.distributional.dpg:DPG",
    "fdpg": "posteriori.objectives.distributional.fdpg:FDPG",
    "soft_q": "posteriori.objectives.soft_values.soft_q:SoftQ",
    "rwr": "posteriori.objectives.imitation.rwr:RWR",
    "raft": "posteriori.objectives.imitation.raft:RAFT",
    "distil": "posteriori.objectives.imitation.distil:Distil",
    "dpo": "posteriori.objectives.preference.dpo:DPO",
    "ipo": "posteriori.objectives.preference.ipo:IPO",
    "simpo": "posteriori.objectives.preference.simpo:SimPO",
    "orpo": "posteriori.objectives.preference.orpo:ORPO",
    "kto": "posteriori.objectives.preference.kto:KTO",
}
EVIDENCE = {
    "reward": "posteriori.evidence.kinds.reward:RewardKind",
    "likelihood": "posteriori.evidence.kinds.likelihood:LikelihoodKind",
    "verifier": "posteriori.evidence.kinds.verifier:VerifierKind",
    "constraint": "posteriori.evidence.kinds.constraint:ConstraintKind",
    "judge": "posteriori.evidence.kinds.judge:JudgeKind",
    "moments": "posteriori.moments.kinds.moments:MomentsKind",
    "expert": "posteriori.evidence.kinds.expert:ExpertKind",
    "teacher": "posteriori.evidence.kinds.teacher:TeacherKind",
    "power": "posteriori.evidence.kinds.power:PowerKind",
    "preferences": "posteriori.evidence.kinds.preferences:PreferencesKind",
    "composition": "posteriori.evidence.kinds.composition:CompositionKind",
    "rules": "posteriori.evidence.kinds.rules:RulesKind",
    "best_of": "posteriori.relative.kinds.best_of:BestOfKind",
    "anchored": "posteriori.relative.kinds.anchored:AnchoredKind",
}
SAMPLERS = {
    "importance": "posteriori.samplers.independent.importance:Importance",
    "imh": "posteriori.samplers.mcmc.imh:IMH",
    "mh": "posteriori.samplers.mcmc.mh:MH",
    "annealed": "posteriori.samplers.annealing.annealed:Annealed",
    "power": "posteriori.samplers.mcmc.power:Power",
    "rejection": "posteriori.samplers.independent.rejection:Rejection",
    "qrs": "posteriori.samplers.independent.qrs:QRS",
    "best_of_n": "posteriori.samplers.independent.best_of_n:BestOfN",
    "soft_best_of_n": "posteriori.samplers.independent.soft_best_of_n:SoftBestOfN",
    "smc": "posteriori.samplers.smc.smc:SMC",
}
TWISTS = {
    "none": "posteriori.samplers.smc.twists:NoTwist",
    "evidence": "posteriori.samplers.smc.twists:EvidenceTwist",
    "prefix": "posteriori.samplers.smc.twists:PrefixTwist",
    "rollouts": "posteriori.samplers.smc.twists:Rollouts",
}
_BUILT_IN: dict[str, dict[str, str]] = {
    "objective": OBJECTIVES,
    "evidence": EVIDENCE,
    "sampler": SAMPLERS,
    "twist": TWISTS,
    "model": {},
    "reward model": {},
}


_GROUPS = {
    "objective": "posteriori.objectives",
    "evidence": "posteriori.evidence",
    "sampler": "posteriori.samplers",
    "twist": "posteriori.twists",
    "model": "posteriori.models",
    "reward model": "posteriori.reward_models",
}


def names(kind: str) -> dict[str, str]:
    """Every known name of a kind ("objective", "sampler", "evidence", "twist", "model", "reward
    model") with where it lives."""
    return {**{point.name: point.value for point in _points(kind)}, **_BUILT_IN[kind]}


def check_names(kind: str) -> None:
    """Raises `ConfigError` for a name that is taken twice."""
    for point in _points(kind):
        _check_taken_once(kind, point.name)


def find(kind: str, name: str) -> Any:
    """What `name` stands for. Raises `UnknownNameError` for an unknown one, and `ConfigError` for
    one that is taken twice or that a plugin cannot import."""
    known = names(kind)
    if name not in known:
        raise unknown_name(kind, name, known)
    _check_taken_once(kind, name)
    module, _, attribute = known[name].partition(":")
    if name in _BUILT_IN[kind]:
        return getattr(import_module(module), attribute)
    try:
        found = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # a plugin's module can fail in any way
        raise ConfigError(
            f"the {kind} '{name}' is {_owners(kind, name)[0]}, and importing it raised "
            f"{type(error).__name__}: {error}",
            hint="mend that package, or uninstall it",
        ) from error
    return found


def configured(kind: str, name: str) -> type[Configured]:
    """What `name` stands for, where a config can name it. Raises `ConfigError` for a plugin's class
    that is not `Configured`."""
    found = find(kind, name)
    if not (isinstance(found, type) and issubclass(found, Configured)):
        raise ConfigError(
            f"the {kind} '{name}' is {_owners(kind, name)[0]}, and a config cannot make it",
            hint="its class has to be a posteriori.Configured, with Settings of its own",
        )
    return found


def package_of(kind: str, name: str) -> str:
    """Where a plugin's name comes from, to be put behind its line; empty for what is built in."""
    return f" ({_owners(kind, name)[0]})" if is_plugin(kind, name) else ""


def is_plugin(kind: str, name: str) -> bool:
    return name not in _BUILT_IN[kind]


def _points(kind: str) -> tuple[EntryPoint, ...]:
    return _installed(entry_points, _GROUPS[kind], tuple(sys.path))


@lru_cache(maxsize=64)
def _installed(
    look: Callable[..., Iterable[EntryPoint]],
    group: str,
    _path: tuple[str, ...],
) -> tuple[EntryPoint, ...]:
    """Looked for once per path that packages are found on: reading what is installed takes as long
    as a short run."""
    return tuple(look(group=group))


def _owners(kind: str, name: str) -> list[str]:
    """What has taken a name, in words."""
    built_in = ["built in"] if name in _BUILT_IN[kind] else []
    places: dict[str, str] = {}
    for point in _points(kind):
        if point.name == name:
            package = getattr(point, "dist", None)
            of = f"of the package '{package.name}'" if package else "of a plugin"
            places.setdefault(point.value, f"{of} ({point.value})")
    return [*built_in, *places.values()]


def _check_taken_once(kind: str, name: str) -> None:
    owners = _owners(kind, name)
    if len(owners) > 1:
        raise ConfigError(
            f"the {kind} '{name}' is taken twice: it is {' and '.join(owners)}",
            hint="uninstall one of the packages, or have its entry point renamed",
        )


def make(
    kind: str,
    given: str | MadeT,
    settings: Mapping[str, Any],
    name: str,
    config: Strict | None = None,
) -> MadeT:
    """What is `given` by name, with its settings (as keywords, as one typed object, or both), or as
    an object, which has its own already: `ConfigError`, which calls them `name`, where both are
    given."""
    if isinstance(given, str):
        typed = {} if config is None else {"config": config}
        return find(kind, given)(**settings, **typed)
    if settings or config is not None:
        raise ConfigError(
            f"{name} go with the {kind}'s name, and an object was given",
            hint=f"write {type(given).__name__}(...) with these settings",
        )
    return given


_LANGUAGE_MODEL = "posteriori.models.as_language_model:as_language_model"


def language_model(given: Any, role: str, like: Any = None) -> LanguageModel:
    """`given` where it is a language model already, else what `models.as_language_model` makes of
    it: of a path, a transformers model, a trainer. Raises `ModelError` for what cannot be one."""
    from .protocols import LanguageModel

    # A tokenizer has end tokens as well.
    ours = hasattr(given, "eos_token_ids") and hasattr(given, "log_prob")
    ours = ours or isinstance(given, LanguageModel)
    if ours and not isinstance(given, type):
        return given
    module, _, attribute = _LANGUAGE_MODEL.partition(":")
    return getattr(import_module(module), attribute)(given, role, like)


_REPORT = "posteriori.report.write.evaluation_files:report_of_run"


def report_of_run(*arguments: Any) -> Any:
    """What `report.write.evaluation_files.report_of_run` does: training asks for its page without
    importing what draws it."""
    module, _, attribute = _REPORT.partition(":")
    return getattr(import_module(module), attribute)(*arguments)
