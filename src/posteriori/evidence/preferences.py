"""Human preferences as evidence: a Bradley-Terry reward model, with its uncertainty."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posteriori.core.display.shown import ShownEvidence
from posteriori.core.protocols import Columns, Scores
from posteriori.core.types import Completions, prompt_key
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, EvidenceError, PromptError

from .beta import check_beta, price

if TYPE_CHECKING:
    from posteriori.reward_models.head_posterior import Uncertainty
    from posteriori.reward_models.reward_model import RewardModel


class Preferences(ShownEvidence):
    """log e(c, y) from r ~ p(r | preference pairs), the posterior over a learned reward.

        mean:      E[r] / beta                       as if the reward were known
        marginal:  log E[exp(r / beta)]              the evidence with the reward integrated out
        lower:     (E[r] - kappa sd[r]) / beta       a lower confidence bound

    `model` is what `posteriori.fit_reward` returned or the directory it wrote (or any
    sequence-classification model with one logit, which has no uncertainty). The expectation is over
    the members of an ensemble, or of a Gaussian: log E[exp(r / beta)] = E[r] / beta +
    var[r] / (2 beta^2). `marginal` is optimistic (Jensen: never below `mean`) and goes where the
    model knows least; `lower` is pessimistic and stays where it knows (Zhu, Jordan and Jiao 2023,
    arXiv 2301.11270). They part as beta falls.

    r is identified only up to a constant per prompt, which p* does not see. The spread of r is that
    of its difference to a reference: the training pairs' mean feature, or, for the prompts of
    `references` (completions, such as draws of the prior), the mean feature of those.
    `calibrated` divides r by the temperature of the held-out pairs first: r is then log-odds.
    A beta that is left out is for `posteriori.fit` to find, or for `with_beta` to say.

    float64 [N], nats; `reward` is beta log e, in units of r. Raises `ConfigError` for a beta or
    kappa out of range or an uncertainty that the model lacks, `ModelError` for a model that cannot
    be loaded, and `EvidenceError` where its score is not finite or a text cannot be read.
    """

    is_reward = True

    @named_arguments
    def __init__(
        self,
        model: RewardModel | str | Path | Any,
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
        """The same preferences at another price."""
        other = copy.copy(self)
        other.beta = check_beta(beta, "Preferences")
        return other

    def score(self, completions: Completions, columns: Columns) -> Scores:  # noqa: ARG002
        beta = price(self.beta, "Preferences")
        feature_ND = self._features(completions)
        log_evidence_N = self.model.posterior.log_evidence(
            feature_ND,
            beta * self.scale,
            self.uncertainty,
            self.kappa,
            self._reference(completions),
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

    def _features(self, completions: Completions) -> Tensor:
        try:
            return self.model.features(completions.prompts, completions.texts, self.batch_size)
        except PromptError as error:
            raise EvidenceError(error.what, where=error.where, hint=error.hint) from error

    def _references(self, references: Completions) -> dict[str, Tensor]:
        feature_ND = self._features(references)
        found = {}
        for at, prompt in enumerate(references.prompt_set):
            rows = (references.prompt_index_N == at).cpu()
            if bool(rows.any()):
                found[prompt_key(prompt)] = feature_ND[rows].mean(0)
        return found

    def _reference(self, completions: Completions) -> Tensor:
        """v of each completion's prompt, [N, D]."""
        default_D = self.model.posterior.reference_D
        of_prompt = [
            self._reference_of.get(prompt_key(prompt), default_D)
            for prompt in completions.prompt_set
        ]
        return torch.stack(of_prompt)[completions.prompt_index_N.cpu()]


def _reward_model(model: RewardModel | str | Path | Any) -> RewardModel:
    from posteriori.reward_models.reward_model import RewardModel

    if isinstance(model, str | Path):
        return RewardModel.load(model)
    found = model if isinstance(model, RewardModel) else getattr(model, "model", None)
    if not isinstance(found, RewardModel):
        raise ConfigError(
            f"{type(model).__name__} is no reward model",
            where="Preferences",
            hint="give what posteriori.fit_reward returned, or the directory that it wrote",
        )
    return found
