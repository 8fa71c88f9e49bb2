"""posteriori: align language models by Bayesian inference.

One target, prior(y|c) exp(r(c,y)/beta) / Z(c); any algorithm; and one honest number, how many nats
the result is from the target. Names are imported when first used, so that `import posteriori` and
the command line's help need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "CausalLM": "models.causal",
    "Completions": "types",
    "Constraint": "evidence.constraint",
    "Draws": "types",
    "Estimate": "types",
    "Evidence": "protocols",
    "Exact": "diagnostics.exact",
    "Expert": "evidence.expert",
    "Finding": "types",
    "Frontier": "diagnostics.frontier",
    "Fit": "train.loop",
    "Judge": "evidence.judge",
    "LanguageModel": "protocols",
    "Likelihood": "evidence.likelihood",
    "Moments": "evidence.moments",
    "Objective": "objectives.base",
    "PassAtK": "diagnostics.pass_at_k",
    "PosterioriError": "errors",
    "Power": "evidence.power",
    "Preferences": "evidence.preferences",
    "Prompted": "prompted",
    "Report": "diagnostics.evaluate",
    "Reward": "evidence.reward",
    "RewardFit": "reward_models.fit",
    "RewardModel": "reward_models.model",
    "Sampler": "samplers.base",
    "TabularLM": "models.tabular",
    "Target": "target",
    "Verifier": "evidence.verifier",
    "TwistHead": "samplers.twist_head",
    "adapt_ladder": "samplers.ladder",
    "conditional_log_z": "samplers.conditional",
    "constraints": "evidence.ready_made",
    "evaluate": "diagnostics.evaluate",
    "exact": "diagnostics.exact",
    "fit": "train.loop",
    "fit_moments": "moment_fit",
    "fit_reward": "reward_models.fit",
    "fit_twist": "samplers.fit_twist",
    "frontier": "diagnostics.frontier",
    "likelihoods": "evidence.ready_made",
    "load": "models.load",
    "newly_solved": "diagnostics.pass_at_k",
    "pass_at_k": "diagnostics.pass_at_k",
    "prompts": "data.prompts",
    "qrs_curve": "samplers.qrs_curve",
    "report": "report",
    "reverse_annealed_log_z": "samplers.reverse_annealing",
    "sample": "sampling",
    "show_progress": "progress",
    "simulate_preferences": "reward_models.simulate",
}

__all__ = [*_WHERE, "__version__"]

if TYPE_CHECKING:
    from .data.prompts import prompts
    from .diagnostics.evaluate import Report, evaluate
    from .diagnostics.exact import Exact, exact
    from .diagnostics.frontier import Frontier, frontier
    from .diagnostics.pass_at_k import PassAtK, newly_solved, pass_at_k
    from .errors import PosterioriError
    from .evidence.constraint import Constraint
    from .evidence.expert import Expert
    from .evidence.judge import Judge
    from .evidence.likelihood import Likelihood
    from .evidence.moments import Moments
    from .evidence.power import Power
    from .evidence.preferences import Preferences
    from .evidence.ready_made import constraints, likelihoods
    from .evidence.reward import Reward
    from .evidence.verifier import Verifier
    from .models.causal import CausalLM
    from .models.load import load
    from .models.tabular import TabularLM
    from .moment_fit import fit_moments
    from .objectives.base import Objective
    from .progress import show_progress
    from .prompted import Prompted
    from .protocols import Evidence, LanguageModel
    from .report import report
    from .reward_models.fit import RewardFit, fit_reward
    from .reward_models.model import RewardModel
    from .reward_models.simulate import simulate_preferences
    from .samplers.base import Sampler
    from .samplers.conditional import conditional_log_z
    from .samplers.fit_twist import fit_twist
    from .samplers.ladder import adapt_ladder
    from .samplers.qrs_curve import qrs_curve
    from .samplers.reverse_annealing import reverse_annealed_log_z
    from .samplers.twist_head import TwistHead
    from .sampling import sample
    from .target import Target
    from .train.loop import Fit, fit
    from .types import Completions, Draws, Estimate, Finding


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'posteriori' has no attribute '{name}'")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
