"""Do the weights of what a server draws average to 1, as those of what it says it draws from do?"""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.hooks import Served
from posteriori.core.types import Draws, Finding

_SIGMA = 6.0
"""Standard errors: a false alarm in 5 x 10^8 evaluations."""


def findings_of_served(
    lm: Served, of_policy: Draws, of_prior: Draws, log_q_of_prior_N: Tensor
) -> tuple[Finding, ...]:
    """What is wrong with a server's draws, by its own log-probs and by weights.

    With w = prior/q: sum_y q w / (1 + w) = sum_y prior q / (prior + q) = sum_y prior / (1 + w). So
    the mean of w/(1 + w) over draws of q is that of 1/(1 + w) over draws of the prior, if the
    server draws from the q whose log-probs it gives, and both are between 0 and 1: the bounded form
    of E_q[w] = 1.
    """
    found = lm.served_findings()
    of_q_N = torch.sigmoid(of_policy.log_prior_N - of_policy.log_proposal_N)
    of_prior_N = torch.sigmoid(log_q_of_prior_N - of_prior.log_prior_N)
    gap_N = of_q_N - of_prior_N.to(of_q_N.device)
    gap, error = float(gap_N.mean()), float(gap_N.std() / len(gap_N) ** 0.5)
    # 1/n: where all differ by rounding alone there is no error either.
    if abs(gap) <= _SIGMA * error + 1 / len(gap_N):
        return found
    return (
        *found,
        Finding(
            "stop",
            "served_weights",
            "The weights prior/q of the server's draws do not average to 1: bounded to [0, 1] they "
            f"are off by {gap:+.3g} ± {error:.2g}, so it does not draw from the distribution whose "
            "log-probs it gives (top-p, top-k, a temperature, or a stop that is no end of "
            "sequence).",
            "No figure of this report is right. Serve the bare model, at temperature 1.",
        ),
    )
