"""How many of a step's draws count as draws of the target, what the policy misses included."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from posteriori.core.draw import draw, lm_tokens
from posteriori.core.protocols import LanguageModel
from posteriori.core.rows_of_prompts import split_rows
from posteriori.core.seeds import generator
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.diagnostics.mixture import Mixture, Stratum

from .replay import Decode, Replay

EVERY = 10
"""Steps from one measurement to the next: each takes a pass over the first step's draws."""


class EffectiveDraws:
    """n / (1 + chi^2(p*, pi)) for n draws of the policy a prompt: `ess` of `posteriori.evaluate`.

    A policy's own draws cannot show it. All draws of a collapsed policy weigh the same, and look
    perfect; what it misses shows in draws of the prior, and the first step's are such. (A policy
    that started as another model has as many drawn of the prior, once.) They are
    scored by the policy every tenth step and in the last one, and a prompt's draws of both make a
    `Mixture`. Prompts that the first step did not have stand aside. In between the last figure
    holds.
    """

    def __init__(self, target: Target, steps: int, seed: int | None = None) -> None:
        """`seed` is for draws of the prior, where the first step's are another model's."""
        self.target, self._seed = target, seed
        self.last_step = steps - 1
        self._first = Replay(1)
        self.figure = math.nan

    def measure(self, fresh: Draws, policy: LanguageModel, step: int) -> int:
        """Bring `figure` up to date, with draws that the policy as it stands (or the engine that
        draws for it: then `policy` is what the engine serves) has just made; returns the tokens
        that went through the policy for it."""
        if step == 0:
            of_prior = fresh if self._seed is None else self._of_prior(fresh, self._seed)
            self._first.keep(replace(of_prior, attached={}, token_log_prior_NL=None))
        prior = self._first.newest
        if prior is None or (step % EVERY and step != self.last_step):
            return 0
        alike = step == 0 and self._seed is None
        if alike:
            log_pi_N, tokens = prior.log_proposal_N, 0
        else:
            with torch.no_grad():
                log_pi_N = policy.log_prob(prior.completions).double()
            tokens = lm_tokens(prior.completions) * (2 if step == 0 else 1)
        of_policy, of_prior = (
            _strata(self.target, fresh, fresh.log_proposal_N),
            _strata(self.target, prior, log_pi_N),
        )
        if alike:
            found = [Mixture(each).ess().value for each in of_prior.values()]
        else:
            found = [
                Mixture(of_policy[key], each).ess().value if key in of_policy else _alone(each)
                for key, each in of_prior.items()
            ]
        self.figure = sum(found) / len(found)
        return tokens

    def _of_prior(self, fresh: Draws, seed: int) -> Draws:
        """As many draws of the prior as those of each prompt."""
        prompts = fresh.completions.prompt_set
        each = max(1, len(fresh) // len(prompts))
        stream = generator(seed, "effective draws")
        return draw(self.target, self.target.prior, each, stream, prompts)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"first": self._first.state_dict(), "figure": self.figure}

    def load_state_dict(self, state: dict[str, Any], decode: Decode) -> None:
        self._first.load_state_dict(state["first"], decode)
        self.figure = state["figure"]


def _strata(target: Target, draws: Draws, log_pi_N: Tensor) -> dict[int, Stratum]:
    """The draws of each of the target's prompts that has any."""
    position_N = target.prompt_positions(draws.completions).cpu()
    values = [each.cpu() for each in (log_pi_N, draws.log_prior_N, draws.log_evidence_N)]
    of_prompts = split_rows(position_N, len(target.prompts))
    return {
        at: Stratum(*(each[rows] for each in values))
        for at, rows in enumerate(of_prompts)
        if len(rows)
    }


def _alone(prior: Stratum) -> float:
    """The same by the prior's draws: n / E_p*[p* / pi], Z too by their weights; at most n."""
    num = len(prior.log_pi_n)
    log_e_n = prior.log_evidence_n
    log_z = float(log_e_n.logsumexp(0)) - math.log(num)
    if log_z == -math.inf:
        return 0.0
    seen = log_e_n > -math.inf
    log_ratio_n = (prior.log_target_n - log_z - prior.log_pi_n)[seen]
    log_moment = float((log_e_n.log_softmax(0)[seen] + log_ratio_n).logsumexp(0))
    return min(float(num), num * math.exp(-log_moment))
