"""Identity preference optimisation."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from .pairs import Pairs, PairsConfig


class IPOConfig(PairsConfig):
    """Settings of the objective "ipo".

    Args:
        pairs: preference data: a file, a data set, or rows of prompt, chosen, rejected; None: pairs
            of draws, which the target's evidence labels.
        pairs_per_step: pairs of the data per step.
        held_out: share of the data's prompts that is not trained on, and judges the policy.
        proposal: without `pairs`, what draws: "policy", as it stands, or "prior".
        labels: without `pairs`: "sampled" draws each label; "expected" weighs both orders by their
            probability.
        beta: tau, the regularisation; no log-ratio ends beyond 1 / beta of another.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    beta: float = Field(default=0.1, gt=0)


class IPO(Pairs[IPOConfig]):
    """loss = (h - 1/(2 tau))^2,  h = (log pi - log prior)(chosen) - the same of rejected.

    Descends E_q[(h(y1, y2) - (P(y1 > y2) - 1/2) / tau)^2] over pairs from q, up to a constant. As
    h is a difference of two terms, its minimum is at

        pi(y|c) = prior(y|c) exp(P(y > q) / tau) / Z',   P(y > q) = E_{y' ~ q}[P(y preferred to y')]

    which is not the target: it tilts the prior by at most 1/tau nats whatever the evidence. With
    `proposal="prior"` q is the prior; with "policy" (the default) it is the policy itself, and the
    fixed point the one at which pi = prior exp(P(y > pi) / tau) / Z'. Labels of draws are
    Bradley-Terry in log e. Unbiased at any number of draws; nats.

    `beta` is tau (0.1 by default, as in TRL). h sums over tokens, as in the paper; TRL's loss
    divides each log-ratio by its completion's length, which is another fixed point. (Azar et al.
    2023, arXiv 2310.12036, section 5, equation 17.)
    """

    name = "ipo"
    fixed_point = "prior x exp(P(preferred to a draw) / beta)"

    Settings = IPOConfig

    def pair_loss(self, h_n: Tensor, probability_n: Tensor) -> Tensor:
        wanted = 1 / (2 * self.settings.beta)
        return probability_n * (h_n - wanted) ** 2 + (1 - probability_n) * (h_n + wanted) ** 2
