"""Human preferences as evidence: a Bradley-Terry reward model, with its uncertainty."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.occurrence import prompt_key
from posteriori.core.protocols import Columns, Scores
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, EvidenceError, PromptError
from posteriori.evidence.shown import ShownEvidence

from .beta import check_beta, known_beta

if TYPE_CHECKING:
    from posteriori.reward_models.head_posterior import Uncertainty
    from posteriori.reward_models.reward_model import LinearReward


class Preferences(ShownEvidence):
    """Human preferences as evidence: the posterior over a learned reward, r ~ p(r | pairs).

        mean:      log e = E[r] / beta                       as if the reward were known
        marginal:  log e = log E[exp(r / beta)]              the reward integrated out
        lower:     log e = (E[r] - kappa sd[r]) / beta       a lower confidence bound

    The expectation is over the members of an ensemble, or a Gaussian. `marginal` is never below
    `mean` and goes where the model knows least; `lower` stays where it knows (Zhu, Jordan and Jiao
    2023, arXiv 2301.11270). r is identified up to a constant per prompt, which p* does not see.

    Args:
        model: what `posteriori.fit_reward` or `posteriori.fit_composition` returned, the directory
            that the first wrote, or any sequence-classification model with one logit (which has no
            uncertainty).
        beta: in units of r; left out, `fit` finds it from a budget, or `with_beta` sets it.
        uncertainty: "mean", "marginal" or "lower".
        kappa: standard deviations that "lower" goes below the mean, at least 0.
        references: completions (draws of the prior, say) whose mean feature, per prompt, is what
            the spread of r is measured from; left out, the training pairs' mean feature.
        calibrated: divide r by the temperature of the held-out pairs first: r is then log-odds.
        batch_size: texts per forward pass.

    Raises:
        ConfigError: for a beta or kappa out of range, or an uncertainty that the model lacks.
        ModelError: for a model that cannot be loaded.
        EvidenceError: when scoring, where r is not finite or a text cannot be read.

    Example:
        >>> evidence = po.Preferences(reward_fit, beta=0.5)
        >>> po.Target(po.load("tiny"), evidence, ["The food is"], 4)
        Target(CausalLM x [Preferences], 1 prompts, max_new_tokens=4)
    """

    is_reward = True

    @named_arguments
    def __init__(
        self,
        model: LinearReward | str | Path | Any,
        beta: float | None = None,
        uncertainty: Uncertainty | str = "mean",
        *,
        kappa: float = 1.0,
        references: Completions | None = None,
        calibrated: bool = False,
        batch_size: int = 32,
    ) -> None:
        if not (math.isfinite(kappa) and kappa >= 0):
            raise ConfigError(
                f"kappa={kappa} must be a number of at least 0",
                where="Preferences",
                hint="it is how many standard deviations below the mean to go",
            )
        self.model = _reward_model(model)
        self.uncertainty: Uncertainty = self.model.posterior.check(uncertainty)
        self.beta = None if beta is None else check_beta(beta, "Preferences")
        self.kappa, self.batch_size = float(kappa), batch_size
        self.scale = self.model.temperature if calibrated else 1.0
        self._reference_of = {} if references is None else self._references(references)

    def with_beta(self, beta: float) -> Preferences:
        """The same preferences at another beta."""
        other = copy.copy(self)
        other.beta = check_beta(beta, "Preferences")
        return other

    def score(self, completions: Completions, columns: Columns) -> Scores:  # noqa: ARG002
        beta = known_beta(self.beta, "Preferences")
        feature_ND = self.features(completions)
        log_evidence_N = self.model.posterior.log_evidence(
            feature_ND,
            beta * self.scale,
            self.uncertainty,
            self.kappa,
            self.reference(completions),
        )
        wrong = (~log_evidence_N.isfinite()).nonzero()[:, 0]
        if len(wrong):
            row = int(wrong[0])
            raise EvidenceError(
                f"its score is {float(log_evidence_N[row])} for completion {row} "
                f"({completions.texts[row][:60]!r})",
                where="Preferences",
                hint="train the reward model again, with a lower learning_rate",
            )
        return Scores(log_evidence_N, beta * log_evidence_N)

    def features(self, completions: Completions) -> Tensor:
        """h(c, y) of the reward model, float64 [N, D]."""
        try:
            return self.model.features(completions.prompts, completions.texts, self.batch_size)
        except PromptError as error:
            raise EvidenceError(error.what, where=error.where, hint=error.hint) from error

    def _references(self, references: Completions) -> dict[str, Tensor]:
        feature_ND = self.features(references)
        found = {}
        for at, prompt in enumerate(references.prompt_set):
            rows = (references.prompt_index_N == at).cpu()
            if bool(rows.any()):
                found[prompt_key(prompt)] = feature_ND[rows].mean(0)
        return found

    def reference(self, completions: Completions) -> Tensor:
        """v of each completion's prompt, [N, D]."""
        default_D = self.model.posterior.reference_D
        of_prompt = [
            self._reference_of.get(prompt_key(prompt), default_D)
            for prompt in completions.prompt_set
        ]
        return torch.stack(of_prompt)[completions.prompt_index_N.cpu()]


def _reward_model(model: LinearReward | str | Path | Any) -> LinearReward:
    from posteriori.reward_models.fit_reward import RewardFit
    from posteriori.reward_models.reward_model import LinearReward, RewardModel

    if isinstance(model, str | Path):
        return RewardModel.load(model)
    found = model.model if isinstance(model, RewardFit) else model
    if not isinstance(found, LinearReward):
        raise ConfigError(
            f"{type(model).__name__} is no reward model",
            where="Preferences",
            hint="give what posteriori.fit_reward returned, or the directory that it wrote",
        )
    return found
