"""Rules as evidence: the product of rule models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns, Scores
from posteriori.core.run.call_context import current_calls
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import in_short, positive
from posteriori.errors import ConfigError, EvidenceError, PromptError, did_you_mean
from posteriori.evidence.shown import ShownEvidence

if TYPE_CHECKING:
    from posteriori.reward_models.rules.fit_rules import RulesFit
    from posteriori.reward_models.rules.rule_model import RuleModel


class Rules(ShownEvidence):
    """Keeping rules as evidence: the product of a rule model per rule.

        log e(c, y) = sum_k weight_k log P(rule k kept | c, y)

    With weights of 1 it is the probability that all rules are kept, where what speaks for one says
    nothing of another: the target is the prior given that. Together with `Preferences` it is
    Sparrow's target, helpful and within the rules (Glaese et al. 2022, arXiv 2209.14375). The
    evidence is at most 1, so rejection from the prior is exact. The reward that is reported is the
    product of the probabilities, and each rule's mean is logged as "rule/name".

    Args:
        models: what `posteriori.fit_rules` returned, the directory that it wrote, or a rule model
            per name.
        weights: of rules by name, above 0; 1 where none is given.
        only: the rules that count, by name; default: all.
        batch_size: texts per forward pass.

    Raises:
        ConfigError: for an unknown rule, or a weight that is not a positive number.
        ModelError: for models that cannot be loaded.
        EvidenceError: when scoring, for a text that cannot be read.

    Example:
        >>> evidence = po.Rules(rules_fit, weights={"polite": 2.0})
        >>> po.Target(po.load("tiny"), evidence, ["The food is"], 4)
        Target(CausalLM x [rules polite], 1 prompts, max_new_tokens=4)
    """

    max_log_evidence = 0.0

    @named_arguments
    def __init__(
        self,
        models: RulesFit | Mapping[str, RuleModel] | str | Path,
        weights: Mapping[str, float] | None = None,
        *,
        only: list[str] | None = None,
        batch_size: int = 32,
    ) -> None:
        known = _models(models)
        for rule in (*(weights or {}), *(only or ())):
            if rule not in known:
                raise ConfigError(
                    f"there is no rule '{rule}'", where="Rules", hint=did_you_mean(rule, known)
                )
        self.models = {rule: model for rule, model in known.items() if only is None or rule in only}
        if not self.models:
            raise ConfigError("there is no rule", where="Rules", hint="give one, or several")
        self.weights = {rule: _weight(rule, (weights or {}).get(rule, 1.0)) for rule in self.models}
        self.batch_size = batch_size
        self.name = f"rules {', '.join(self.models)}"

    def log_kept(self, completions: Completions) -> dict[str, Tensor]:
        """log P(kept | c, y) by rule, float64 [N] each, nats."""
        found = {}
        for rule, model in self.models.items():
            try:
                found[rule] = model.log_kept(
                    completions.prompts, completions.texts, self.batch_size
                )
            except PromptError as error:
                raise EvidenceError(error.what, where=error.where, hint=error.hint) from error
            wrong = (found[rule].isnan()).nonzero()[:, 0]
            if len(wrong):
                raise EvidenceError(
                    f"the rule '{rule}' is NaN for completion {int(wrong[0])}",
                    where="Rules",
                    hint="train the rule again, with a lower learning_rate",
                )
        return found

    def score(self, completions: Completions, columns: Columns) -> Scores:  # noqa: ARG002
        of_rules = self.log_kept(completions)
        log_e_N = torch.zeros(len(completions), dtype=torch.float64)
        for rule, log_kept_N in of_rules.items():
            log_e_N = log_e_N + self.weights[rule] * log_kept_N
            if len(log_kept_N):
                current_calls().log_metric(
                    f"rule/{rule}", math.fsum(log_kept_N.exp()) / len(log_kept_N)
                )
        return Scores(log_e_N, sum(of_rules.values(), torch.zeros_like(log_e_N)).exp())


def _models(given: Any) -> dict[str, RuleModel]:
    if isinstance(given, str | Path):
        # Only a directory wants the loader.
        from posteriori.reward_models.rules.fit_rules import load_rules

        return load_rules(given)
    if isinstance(given, Mapping):
        return dict(given)
    from posteriori.reward_models.rules.fit_rules import RulesFit

    if isinstance(given, RulesFit):
        return dict(given.models)
    raise ConfigError(
        f"{type(given).__name__} has no rules",
        where="Rules",
        hint="give what posteriori.fit_rules returned, or the directory that it wrote",
    )


def _weight(rule: str, given: float) -> float:
    weight = positive(given)
    if weight is None:
        raise ConfigError(
            f"the weight of '{rule}' is {in_short(given)}, not a positive number",
            where="Rules",
            hint="leave the rule out of `only` where it is to count for nothing",
        )
    return weight
