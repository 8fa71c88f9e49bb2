"""Names of objectives, samplers and evidence, each "module:attribute", loaded when asked.

Other packages add theirs by entry points in the groups `posteriori.objectives`,
`posteriori.samplers` and `posteriori.evidence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from posteriori.errors import ConfigError, unknown_name

from .settings.configured import Configured

if TYPE_CHECKING:
    from .protocols import LanguageModel

MadeT = TypeVar("MadeT")

OBJECTIVES = {
    "rl": "posteriori.objectives.policy_gradient.rl:RL",
    "reinforce": "posteriori.objectives.policy_gradient.reinforce:Reinforce",
    "rloo": "posteriori.objectives.policy_gradient.rloo:RLOO",
    "grpo": "posteriori.objectives.policy_gradient.grpo:GRPO",
    "ppo": "posteriori.objectives.policy_gradient.ppo:PPO",
    "vargrad": "posteriori.objectives.balance.vargrad:VarGrad",
    "tb": "posteriori.objectives.balance.tb:TB",
    "dpg": "posteriori.objectives.distributional.dpg:DPG",
    "fdpg": "posteriori.objectives.distributional.fdpg:FDPG",
    "soft_q": "posteriori.objectives.soft_values.soft_q:SoftQ",
    "rwr": "posteriori.objectives.imitation.rwr:RWR",
    "raft": "posteriori.objectives.imitation.raft:RAFT",
    "dpo": "posteriori.objectives.preference.dpo:DPO",
    "ipo": "posteriori.objectives.preference.ipo:IPO",
}
EVIDENCE = {
    "reward": "posteriori.evidence.kinds.reward:RewardKind",
    "likelihood": "posteriori.evidence.kinds.likelihood:LikelihoodKind",
    "verifier": "posteriori.evidence.kinds.verifier:VerifierKind",
    "constraint": "posteriori.evidence.kinds.constraint:ConstraintKind",
    "judge": "posteriori.evidence.kinds.judge:JudgeKind",
    "moments": "posteriori.moments.kind:MomentsKind",
    "expert": "posteriori.evidence.kinds.expert:ExpertKind",
    "power": "posteriori.evidence.kinds.power:PowerKind",
    "preferences": "posteriori.evidence.kinds.preferences:PreferencesKind",
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


def configured(kind: str, name: str) -> type[Configured]:
    """What `name` stands for, where a config can name it. Raises `ConfigError` for a plugin's class
    that is not `Configured`."""
    found = find(kind, name)
    if not (isinstance(found, type) and issubclass(found, Configured)):
        raise ConfigError(
            f"the {kind} '{name}' ({names(kind)[name]}) cannot be made from a config",
            hint="its class has to be a posteriori.Configured, with Settings of its own",
        )
    return found


def make(kind: str, given: str | MadeT, settings: Mapping[str, Any], said: str) -> MadeT:
    """What is `given` by name, with its settings, or as an object, which has its own already:
    `ConfigError`, which calls them what the caller `said`, where both are given."""
    if isinstance(given, str):
        return find(kind, given)(**settings)
    if settings:
        raise ConfigError(
            f"{said} go with the {kind}'s name, and an object was given",
            hint=f"write {type(given).__name__}(...) with these settings",
        )
    return given


_LANGUAGE_MODEL = "posteriori.models.as_language_model:as_language_model"


def language_model(given: Any, role: str, like: Any = None) -> LanguageModel:
    """`given` where it is a language model already, else what `models.as_language_model` makes of
    it: of a path, a transformers model, a trainer. Raises `ModelError` for what cannot be one."""
    from .protocols import LanguageModel

    ours = hasattr(given, "eos_token_ids") or isinstance(given, LanguageModel)
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
