"""posteriori: align language models by Bayesian inference.

One target, prior(y|c) exp(r(c,y)/beta) / Z(c); any algorithm; and one honest number, how many nats
the result is from the target. Names are imported when first used, so that `import posteriori` and
the command line's help need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_WHERE = {
    "Anchored": "relative.anchored",
    "AnnealedConfig": "samplers.annealing.annealed",
    "BestOf": "relative.best_of",
    "BestOfNConfig": "samplers.independent.best_of_n",
    "CausalLM": "models.causal",
    "Completions": "core.completions",
    "Composition": "evidence.composed.composition",
    "Configured": "core.settings.configured",
    "Strict": "core.settings.strict",
    "Constraint": "evidence.constraint",
    "Draws": "core.types",
    "Engine": "models.engines.engine",
    "EngineConfig": "models.engines.settings",
    "Environment": "models.environments.episode",
    "Episode": "models.environments.episode",
    "Estimate": "core.types",
    "Evidence": "core.protocols",
    "Exact": "diagnostics.exact.exact",
    "Expert": "evidence.expert",
    "Finding": "core.display.finding",
    "Fit": "train.fit",
    "FitConfig": "core.settings.training",
    "FitRewardConfig": "core.settings.training",
    "FitTwistConfig": "core.settings.training",
    "Frontier": "diagnostics.frontier.curve",
    "IMHConfig": "samplers.mcmc.imh",
    "InEnvironment": "models.environments.in_environment",
    "ImportanceConfig": "samplers.independent.importance",
    "Judge": "evidence.judge.judge",
    "LanguageModel": "core.protocols",
    "Likelihood": "evidence.likelihood",
    "Looked": "diagnostics.evaluate.until",
    "MHConfig": "samplers.mcmc.mh",
    "Moments": "moments.moments",
    "Objective": "objectives.base",
    "PassAtK": "diagnostics.evaluate.pass_at_k",
    "PosterioriError": "errors",
    "Power": "evidence.power",
    "PowerConfig": "samplers.mcmc.power",
    "Preferences": "evidence.preferences",
    "Prompted": "core.prompted",
    "QRSConfig": "samplers.independent.qrs",
    "RejectionConfig": "samplers.independent.rejection",
    "RayActors": "core.processes.ray_actors",
    "RayConfig": "core.settings.ray",
    "Report": "diagnostics.evaluate.report",
    "Reward": "evidence.reward",
    "RewardFit": "reward_models.fit_reward",
    "RewardModel": "reward_models.reward_model",
    "RuleModel": "reward_models.rules.rule_model",
    "Rules": "evidence.rules",
    "RulesFit": "reward_models.rules.fit_rules",
    "SMCConfig": "samplers.smc.smc",
    "Sampler": "samplers.base",
    "Served": "models.engines.served",
    "TabularLM": "models.tabular",
    "Teacher": "evidence.teacher",
    "Target": "core.target",
    "TurningPoint": "diagnostics.frontier.turning_point",
    "Tools": "models.environments.tools",
    "Twist": "samplers.smc.twists",
    "TwistHead": "samplers.smc.twist_head",
    "Verifier": "evidence.verifier",
    "adapt_ladder": "samplers.annealing.ladder",
    "conditional_log_z": "samplers.smc.conditional",
    "constraints": "evidence.text.ready_made",
    "evaluate": "diagnostics.evaluate.evaluate",
    "exact": "diagnostics.exact.exact",
    "fit": "train.fit",
    "fit_composition": "evidence.composed.fit_composition",
    "fit_moments": "moments.fit_moments",
    "fit_reward": "reward_models.fit_reward",
    "fit_rules": "reward_models.rules.fit_rules",
    "fit_twist": "samplers.smc.fit_twist",
    "frontier": "diagnostics.frontier.frontier",
    "likelihoods": "evidence.text.ready_made",
    "load": "models.load",
    "load_target": "config.target",
    "newly_solved": "diagnostics.evaluate.pass_at_k",
    "pass_at_k": "diagnostics.evaluate.pass_at_k",
    "prompts": "data.prompts",
    "qrs_curve": "samplers.independent.qrs_curve",
    "report": "report",
    "reverse_annealed_log_z": "samplers.annealing.reverse_annealing",
    "sample": "samplers.sample",
    "sft": "train.sft",
    "show_progress": "core.run.default_progress",
    "simulate_preferences": "reward_models.simulate_preferences",
    "turning_point": "diagnostics.frontier.turning_point",
}

__all__ = [*_WHERE, "__version__"]

if TYPE_CHECKING:
    from .config.target import load_target
    from .core.completions import Completions
    from .core.display.finding import Finding
    from .core.processes.ray_actors import RayActors
    from .core.prompted import Prompted
    from .core.protocols import Evidence, LanguageModel
    from .core.run.default_progress import show_progress
    from .core.settings.configured import Configured
    from .core.settings.ray import RayConfig
    from .core.settings.strict import Strict
    from .core.settings.training import FitConfig, FitRewardConfig, FitTwistConfig
    from .core.target import Target
    from .core.types import Draws, Estimate
    from .data.prompts import prompts
    from .diagnostics.evaluate.evaluate import evaluate
    from .diagnostics.evaluate.pass_at_k import PassAtK, newly_solved, pass_at_k
    from .diagnostics.evaluate.report import Report
    from .diagnostics.evaluate.until import Looked
    from .diagnostics.exact.exact import Exact, exact
    from .diagnostics.frontier.curve import Frontier
    from .diagnostics.frontier.frontier import frontier
    from .diagnostics.frontier.turning_point import TurningPoint, turning_point
    from .errors import PosterioriError
    from .evidence.composed.composition import Composition
    from .evidence.composed.fit_composition import fit_composition
    from .evidence.constraint import Constraint
    from .evidence.expert import Expert
    from .evidence.judge.judge import Judge
    from .evidence.likelihood import Likelihood
    from .evidence.power import Power
    from .evidence.preferences import Preferences
    from .evidence.reward import Reward
    from .evidence.rules import Rules
    from .evidence.teacher import Teacher
    from .evidence.text.ready_made import constraints, likelihoods
    from .evidence.verifier import Verifier
    from .models.causal import CausalLM
    from .models.engines.engine import Engine
    from .models.engines.served import Served
    from .models.engines.settings import EngineConfig
    from .models.environments.episode import Environment, Episode
    from .models.environments.in_environment import InEnvironment
    from .models.environments.tools import Tools
    from .models.load import load
    from .models.tabular import TabularLM
    from .moments.fit_moments import fit_moments
    from .moments.moments import Moments
    from .objectives.base import Objective
    from .relative.anchored import Anchored
    from .relative.best_of import BestOf
    from .report import report
    from .reward_models.fit_reward import RewardFit, fit_reward
    from .reward_models.reward_model import RewardModel
    from .reward_models.rules.fit_rules import RulesFit, fit_rules
    from .reward_models.rules.rule_model import RuleModel
    from .reward_models.simulate_preferences import simulate_preferences
    from .samplers.annealing.annealed import AnnealedConfig
    from .samplers.annealing.ladder import adapt_ladder
    from .samplers.annealing.reverse_annealing import reverse_annealed_log_z
    from .samplers.base import Sampler
    from .samplers.independent.best_of_n import BestOfNConfig
    from .samplers.independent.importance import ImportanceConfig
    from .samplers.independent.qrs import QRSConfig
    from .samplers.independent.qrs_curve import qrs_curve
    from .samplers.independent.rejection import RejectionConfig
    from .samplers.mcmc.imh import IMHConfig
    from .samplers.mcmc.mh import MHConfig
    from .samplers.mcmc.power import PowerConfig
    from .samplers.sample import sample
    from .samplers.smc.conditional import conditional_log_z
    from .samplers.smc.fit_twist import fit_twist
    from .samplers.smc.smc import SMCConfig
    from .samplers.smc.twist_head import TwistHead
    from .samplers.smc.twists import Twist
    from .train.fit import Fit, fit
    from .train.sft import sft


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'posteriori' has no attribute '{name}'")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
