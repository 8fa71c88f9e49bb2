"""The draws that an evaluation rests on: the policy's, and the prior's beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.core.draw import draw, lm_tokens
from posteriori.core.journal.journal import once
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.progress import Progress, one_pass, portions
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws


@dataclass(frozen=True)
class Sides:
    """`of_prior` is None where the policy is the prior itself; `log_pi_of_prior_N` is what the
    policy says of those draws, or of its own."""

    of_policy: Draws
    of_prior: Draws | None
    log_pi_of_prior_N: Tensor
    cost: Cost

    @property
    def pairs(self) -> list[tuple[Draws, Tensor]]:
        """Each side's draws with log pi."""
        sides = [(self.of_policy, self.of_policy.log_proposal_N)]
        if self.of_prior is not None:
            sides.append((self.of_prior, self.log_pi_of_prior_N))
        return sides

    def with_more(self, more: Sides) -> Sides:
        """These draws and those, in this order within each prompt."""
        of_prior = None
        if self.of_prior is not None and more.of_prior is not None:
            of_prior = Draws.concat([self.of_prior, more.of_prior])
        return Sides(
            Draws.concat([self.of_policy, more.of_policy]),
            of_prior,
            torch.cat([self.log_pi_of_prior_N, more.log_pi_of_prior_N]),
            self.cost + more.cost,
        )


def drawn_sides(
    target: Target,
    lm: LanguageModel,
    num_samples: int,
    seed: int,
    *,
    prior_draws: Draws | None = None,
    look: int = 0,
    on_progress: Progress | None = None,
) -> Sides:
    """`num_samples` draws per prompt of the policy, and of the prior where none are given and it is
    another model. Each look has its own streams."""
    number = num_samples * len(target.prompts)
    alone = lm is target.prior
    own = not alone and prior_draws is None
    drawing, of_its_own, scoring = portions(
        on_progress,
        [(2 if alone else 3) * number, 2 * number if own else 0, 0 if alone else number],
    )
    nth = (look,) if look else ()
    seeded = generator(seed, "evaluate", "policy", *nth)
    of_policy = draw(target, lm, num_samples, seeded, on_progress=drawing)
    if alone:
        return Sides(of_policy, None, of_policy.log_proposal_N, of_policy.cost)
    cost = of_policy.cost
    of_prior = prior_draws
    if of_prior is None:
        seeded = generator(seed, "evaluate", "prior", *nth)
        of_prior = draw(target, target.prior, num_samples, seeded, on_progress=of_its_own)
        cost += of_prior.cost
    log_pi_N = log_prob_of(lm, of_prior, scoring)
    return Sides(of_policy, of_prior, log_pi_N, cost + Cost(lm_tokens(of_prior.completions)))


def log_prob_of(lm: LanguageModel, draws: Draws, on_progress: Progress | None) -> Tensor:
    """log pi of draws of others, without gradient."""
    with torch.no_grad(), one_pass(on_progress, len(draws)):
        return once(lambda: lm.log_prob(draws.completions).double())
