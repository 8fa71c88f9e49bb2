"""How probable demonstrations are to a model before and after it was trained on others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from posteriori.core.occurrence import prompt_key
from posteriori.core.protocols import LanguageModel
from posteriori.core.types import Estimate, Finding
from posteriori.objectives.tokenised_rows import TokenisedRows
from posteriori.reward_models.calibration import clustered


@dataclass(frozen=True)
class LikelihoodFigures:
    """Cross-entropies of demonstrations, nats; over rows that training did not see where
    `held_out`, and else over those that it was trained on.

    `before` and `after`: E_data[-log pi(y|c)] per completion, of the model that training began with
    and of the one that it ended with; `per_token_before` and `per_token_after`: the same over their
    tokens. `gain`: before - after, row by row, and so the nats by which KL(data, pi) has fallen.
    """

    held_out: bool
    num_rows: int
    before: Estimate
    after: Estimate
    gain: Estimate
    per_token_before: float
    per_token_after: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """That the data have become less probable, as far as these rows show."""
        if not self.held_out or self.gain.value + 1.96 * self.gain.standard_error > 0:
            return ()
        return (
            Finding(
                "warn",
                "less_probable",
                f"Held-out demonstrations are less probable than before training, by "
                f"{-self.gain.value:.3g} ± {self.gain.standard_error:.2g} nats per completion: the "
                "model has learned its rows by heart, or the rate is too high.",
                "Fewer epochs, more rows, or a lower learning_rate.",
            ),
        )


def likelihood_figures(
    data: TokenisedRows, before: LanguageModel, after: LanguageModel, *, held_out: bool
) -> LikelihoodFigures:
    """Of the rows under both models."""
    with torch.no_grad():
        then_N = -before.log_prob(data.all).double().cpu()
        now_N = -after.log_prob(data.all).double().cpu()
    prompts = [prompt_key(prompt) for prompt in data.all.prompts]
    # Rows of one prompt are independent draws of it; rows of many prompts are draws of both.
    groups = prompts if len(set(prompts)) > 1 else [str(at) for at in range(len(prompts))]
    tokens = int(data.all.lengths_N.sum())
    return LikelihoodFigures(
        held_out,
        len(data),
        clustered(then_N, groups),
        clustered(now_N, groups),
        clustered(then_N - now_N, groups),
        float(then_N.sum()) / tokens,
        float(now_N.sum()) / tokens,
    )
