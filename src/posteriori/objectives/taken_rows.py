"""Rows of a user's data in place of draws: which come next, and what is known of them."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.draw import lm_tokens
from posteriori.core.protocols import LanguageModel
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws
from posteriori.errors import CheckpointError

from .tokenised_rows import TokenisedRows


class TakenRows(torch.nn.Module):
    """Rows with one completion each, taken in shuffled passes; part of an objective's checkpoint.

    What drew them is unknown and the evidence is not called, so these are NaN in `Draws`; log prior
    is computed once for each row where `with_prior`, and is NaN otherwise. `called` is the data's
    name in errors.
    """

    _taken: Tensor
    _log_prior_R: Tensor

    def __init__(self, data: TokenisedRows, called: str, *, with_prior: bool) -> None:
        super().__init__()
        self.data, self._called, self._with_prior = data, called, with_prior
        self.register_buffer("_taken", torch.zeros((), dtype=torch.long))
        unknown_R = torch.full((len(data),), torch.nan, dtype=torch.float64)
        self.register_buffer("_log_prior_R", unknown_R)

    def next(self, target: Target, count: int) -> tuple[Draws, Tensor]:
        """The next `count` rows, and which they are."""
        rows = self.data.rows(int(self._taken), count)
        completions = self.data.completions(rows)
        device = completions.tokens_NL.device
        log_prior_N, cost = self._log_prior_R.cpu()[rows].to(device), Cost()
        new_N = log_prior_N.isnan()
        if self._with_prior and bool(new_N.any()):
            unseen = completions.select(new_N)
            log_prior_N[new_N] = target.log_prior(unseen)
            cost = Cost(lm_tokens=lm_tokens(unseen))
        unknown_N = torch.full_like(log_prior_N, torch.nan)
        return Draws(completions, unknown_N, log_prior_N, unknown_N, unknown_N, cost), rows

    def observe(self, draws: Draws) -> None:
        """The step with these rows is finished."""
        rows = self.data.rows(int(self._taken), len(draws))
        log_prior_R = self._log_prior_R.clone()
        log_prior_R[rows] = draws.log_prior_N.to(log_prior_R.device)
        self._log_prior_R, self._taken = log_prior_R, self._taken + len(rows)

    def get_extra_state(self) -> dict[str, str]:
        return {"rows": self.data.sha256}

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state != self.get_extra_state():
            raise CheckpointError(
                f"the {self._called} are not those that the run began with",
                hint="put the file back, or start a new run",
            )


def kl_by_samples(
    target: Target, policy: LanguageModel, completions: Completions, generator: torch.Generator
) -> tuple[float, Cost]:
    """KL(policy, prior) over those completions' prompts, from one fresh draw of each prompt."""
    drawn = policy.sample(completions.prompt_set, 1, completions.max_new_tokens, generator)
    assert drawn.token_log_prob_NL is not None, "a sampler returns its draws' log-probs"
    log_pi_N = drawn.token_log_prob_NL.sum(-1).double()
    log_prior_N = target.token_log_prior(drawn).sum(-1).double()
    return float((log_pi_N - log_prior_N).mean()), Cost(lm_tokens=2 * lm_tokens(drawn))
