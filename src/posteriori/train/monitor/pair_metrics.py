"""What preference data ask of a policy: does it order pairs as people did?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from posteriori.core.occurrence import prompt_key
from posteriori.core.protocols import LanguageModel
from posteriori.core.target import Target
from posteriori.core.types import Estimate, Finding
from posteriori.objectives.preference.pairs import Pairs
from posteriori.reward_models.calibration import clustered, held_out_figures


@dataclass(frozen=True)
class PairFigures:
    """How a policy orders pairs, by the objective's score, log pi/prior for `dpo` and `ipo`; over
    prompts that training did not see where `held_out`, and else over those that it was trained on.

    `accuracy`: the share of pairs whose chosen completion has the larger score, 0.5 for the prior
    itself. `loss`: -log sigmoid(b h) in nats per pair, h = the difference of scores and b the
    objective's scale; log 2 = 0.69 for the prior. `margin`: the mean of h, nats. (Scores without
    the prior, of `simpo` and `orpo`, have other figures for it.)
    """

    held_out: bool
    num_pairs: int
    num_prompts: int
    accuracy: Estimate
    loss: Estimate
    margin: Estimate

    @property
    def findings(self) -> tuple[Finding, ...]:
        """That the pairs were not learned, as far as these show."""
        low = self.accuracy.value - 1.96 * self.accuracy.standard_error
        if not self.held_out or low > 0.5:
            return ()
        return (
            Finding(
                "warn",
                "pairs_at_chance",
                f"The policy orders {self.accuracy} of {self.num_pairs} held-out pairs as their "
                "labels do, and 0.5 is chance: it has not learned what they prefer, as far as "
                "these show.",
                "Train longer or on more pairs, hold more out (held_out), or look at the labels.",
            ),
        )


def pair_figures(target: Target, objective: Pairs, policy: LanguageModel) -> PairFigures | None:
    """Of the pairs that the objective has held out, or of all where it has held none out; None
    where its pairs are draws. `policy` is a model with the outcomes of the target's prior."""
    data, held_out = objective.judged_by
    if data is None:
        return None
    with torch.no_grad():
        log_prior_N = target.log_prior(data.all).cpu()
        if policy is target.prior:
            log_pi_N = log_prior_N
        else:
            log_pi_N = policy.log_prob(data.all).double().cpu()
    score_N = objective.score(log_pi_N, log_prior_N, data.all.lengths_N.cpu())
    h_n = score_N[::2] - score_N[1::2]
    prompts = data.all.prompts[::2]
    groups = [prompt_key(prompt) for prompt in prompts]
    ones_n = torch.ones_like(h_n)
    found = held_out_figures(objective.label_scale * h_n, ones_n, groups)
    return PairFigures(
        held_out,
        len(h_n),
        len(set(groups)),
        found.accuracy,
        found.log_loss,
        clustered(h_n, groups),
    )
