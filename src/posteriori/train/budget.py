"""A budget in nats, or a wanted reward, in place of beta: the frontier says which beta that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posteriori.core.draw import draw
from posteriori.core.hooks import ScalableEvidence, those
from posteriori.core.run.progress import Progress
from posteriori.core.seeds import generator
from posteriori.core.settings.training import FitConfig, budget_of
from posteriori.core.target import Target
from posteriori.data.formats.json_object import read_object
from posteriori.diagnostics.frontier.curve import Frontier
from posteriori.diagnostics.frontier.frontier import frontier
from posteriori.diagnostics.prompt_sample import sampled_prompts
from posteriori.errors import CheckpointError, ConfigError, FrontierError
from posteriori.evidence.beta import known_beta
from posteriori.evidence.constraint import Constraint
from posteriori.evidence.preferences import Preferences
from posteriori.runs.target_journal import keeping

_PILOT = 64
"""Draws per prompt from which the reward's scale is estimated."""

_PILOT_PROMPTS = 64

_STRONGEST = 100.0
"""1/beta up to which the frontier is looked for, in standard deviations of the prior's reward."""


@dataclass(frozen=True)
class Budget:
    """The posterior that a run is for: its beta, and the KL (nats) and reward predicted of it."""

    beta: float
    kl: float
    kl_error: float
    reward: float
    reward_error: float

    def __str__(self) -> str:
        return (
            f"beta {self.beta:.4g}, for which the frontier has KL {self.kl:.4g} ± "
            f"{self.kl_error:.2g} nats and reward {self.reward:.4g} ± {self.reward_error:.2g}"
        )


def check_betas(target: Target, asked: str | None) -> None:
    """Raises `ConfigError` unless beta is given once: with the evidence, or by one budget.

    A budget needs evidence that the frontier tempers by 1/beta alone: a Reward or Preferences
    (not integrated out: `marginal`), with nothing beside it but constraints.
    """
    scalable = those(target.evidence, ScalableEvidence)
    if asked is None:
        for each in scalable:
            known_beta(each.beta, type(each).__name__)
        return
    others = [each for each in target.evidence if each not in scalable]
    if len(scalable) != 1 or any(not isinstance(each, Constraint) for each in others):
        names = ", ".join(type(each).__name__ for each in target.evidence)
        raise ConfigError(
            f"{asked} needs one Reward or Preferences, alone or with constraints, and the evidence "
            f"is {names}",
            where="fit",
            hint=f"remove {asked} and state the evidence's strength itself",
        )
    [one] = scalable
    if one.beta is not None:
        raise ConfigError(
            f"both {asked} and beta={one.beta} are given",
            where="fit",
            hint=f"leave beta out of {type(one).__name__}(...), or remove {asked}",
        )
    if isinstance(one, Preferences) and one.uncertainty == "marginal":
        raise ConfigError(
            f"{asked} needs evidence in proportion to 1/beta, and that of uncertainty='marginal' "
            "is not",
            where="fit",
            hint="use uncertainty='mean' or 'lower', or give beta",
        )


def find_budget(
    target: Target,
    settings: FitConfig,
    on_progress: Progress | None = None,
    *,
    journal: Path | None = None,
    resume: bool = False,
) -> Budget:
    """beta with KL(p*_beta, prior) = kl_budget, or E_p*_beta[r] = reward_target, by
    `frontier`: `budget_samples` draws of the prior per prompt, and annealed ones, up to
    `budget_stages` times, until the curve goes so far; means over the target's prompts.

    `journal` has what is finished of it until all is, and `resume` takes it up. Raises
    `FrontierError` where the curve does not go as far.
    """
    asked = budget_of(settings.kl_budget, settings.reward_target)
    assert asked is not None

    def reaches(curve: Frontier) -> bool:
        if not curve.points:
            return False
        last = curve.points[-1]
        if settings.kl_budget is not None:
            return last.kl.value >= settings.kl_budget
        assert settings.reward_target is not None
        return last.reward.value >= settings.reward_target

    def about() -> dict[str, Any]:
        return {"the work": "find_budget", **settings.recorded()}

    target = sampled_prompts(target, settings.max_prompts, settings.seed)
    with keeping(target, journal, about, resume=resume and journal is not None):
        curve = frontier(
            in_own_units(target, settings.seed),
            settings.budget_samples,
            settings.seed,
            stages=settings.budget_stages,
            strongest=_STRONGEST,
            enough=reaches,
            on_progress=on_progress,
        )
    try:
        if settings.kl_budget is not None:
            point = curve.at_kl(settings.kl_budget)
        else:
            assert settings.reward_target is not None
            point = curve.at_reward(settings.reward_target)
    except FrontierError as error:
        raise FrontierError(
            error.what,
            where=f"fit: {asked}",
            hint="ask for less, or raise budget_samples or budget_stages"
            if "beyond" in error.what
            else error.hint,
        ) from error
    return Budget(
        point.beta,
        point.kl.value,
        point.kl.standard_error,
        point.reward.value,
        point.reward.standard_error,
    )


def in_own_units(target: Target, seed: int) -> Target:
    """The target at the beta of one standard deviation of the prior's reward, 1 if it has none:
    where the frontier of a target that has no beta yet is looked for."""
    plain = sampled_prompts(target, _PILOT_PROMPTS, seed).with_beta(1.0)
    drawn = draw(plain, plain.prior, _PILOT, generator(seed, "budget"))
    finite_n = drawn.reward_N[drawn.reward_N.isfinite()]
    spread = float(finite_n.std(unbiased=False)) if len(finite_n) else 0.0
    return target.with_beta(spread if spread > 0 else 1.0)


def within(target: Target, budget: Budget) -> Target:
    """The target at the budget's beta."""
    return target.with_beta(budget.beta * target.temper)


def recorded_budget(folder: Path | str) -> Budget | None:
    """What a run in that folder has found, if it had a budget and came so far."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        return None
    try:
        found = read_object(file).get("budget")
        return None if found is None else Budget(**found)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"not the config of a run: {error}", where=str(file), hint="choose another output_dir"
        ) from error
