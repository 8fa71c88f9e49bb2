"""Worlds in which estimates go wrong: small tables of which everything is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import posteriori as po


class World:
    """Prompts with a table of outcomes each: `prior_PV` probabilities, `log_e_PV` log-evidence.

    Outcomes are sequences of `depth` tokens, V = K ** depth of them in lexicographic order, so that
    every distribution over them is a table. The reward is beta log e, and `stated` says whether its
    largest value is.
    """

    def __init__(
        self,
        prior_PV: Tensor,
        log_e_PV: Tensor,
        *,
        depth: int = 1,
        beta: float = 0.5,
        stated: bool = True,
    ) -> None:
        self.log_prior_PV, self.log_e_PV = prior_PV.double().log(), log_e_PV.double()
        self.log_prior_PV = self.log_prior_PV - self.log_prior_PV.logsumexp(-1, keepdim=True)
        self.depth, self.beta, self.stated = depth, beta, stated
        num_prompts, size = self.log_prior_PV.shape
        self.num_tokens = round(size ** (1 / depth))
        self.prompts = tuple(f"p{at}" for at in range(num_prompts))
        # Token 0 ends a text, and no text of these worlds ends before its last token.
        self.words = ("<eos>", *(f"w{at}" for at in range(self.num_tokens)))
        allowed_PV = ~self.log_e_PV.isneginf()
        reward_PV = beta * self.log_e_PV.where(allowed_PV, 0.0)
        rows, allowed = reward_PV.tolist(), allowed_PV.tolist()

        def reward(prompts, completion_ids, **_):
            pairs = zip(prompts, completion_ids, strict=True)
            return [rows[int(prompt[1:])][self.place(ids)] for prompt, ids in pairs]

        def may_be(prompts, completion_ids, **_):
            pairs = zip(prompts, completion_ids, strict=True)
            return [allowed[int(prompt[1:])][self.place(ids)] for prompt, ids in pairs]

        most = beta * float(self.log_e_PV.max()) if stated else None
        evidence: list[Any] = [po.Reward(reward, beta=beta, max_reward=most)]
        if not bool(allowed_PV.all()):
            evidence.append(po.Constraint(may_be))
        self.target = po.Target(self.table(self.log_prior_PV), evidence, list(self.prompts), depth)

    def place(self, ids: list[int]) -> int:
        place = 0
        for token in ids:
            place = place * self.num_tokens + token - 1
        return place

    def table(self, log_p_PV: Tensor) -> po.TabularLM:
        """The language model with these log-probabilities of the outcomes."""
        num_prompts, levels = len(log_p_PV), []
        for length in range(self.depth):
            shape = (num_prompts, self.num_tokens**length, self.num_tokens, -1)
            next_PRK = log_p_PV.reshape(shape).logsumexp(-1)
            never_PR1 = next_PRK.isneginf().all(-1, keepdim=True)
            levels.append(next_PRK.masked_fill(never_PR1, 0.0))
        next_PRK = torch.cat(levels, dim=1)
        ends_PR1 = torch.full_like(next_PRK[..., :1], -math.inf)
        return po.TabularLM(torch.cat([ends_PR1, next_PRK], dim=-1), self.prompts, self.words)

    def tilted(self, t: float) -> Tensor:
        """log p*_t of each outcome, p*_t ~ prior e^t."""
        return (self.log_prior_PV + t * self.log_e_PV).log_softmax(-1)

    @cached_property
    def policies(self) -> dict[str, Tensor]:
        """log-probabilities of policies: the prior; one near the target, which has half of what it
        learned from elsewhere; one that has collapsed to a tenth of the prior's outcomes."""
        shape = self.log_prior_PV.shape
        noise_PV = torch.randn(shape, generator=_random(97), dtype=torch.float64)
        near_PV = self.tilted(0.8) + 0.2 * noise_PV
        few_PV = self.log_prior_PV + 4.0 * (noise_PV > 1.2) + 0.5 * self.log_e_PV
        return {
            "prior": self.log_prior_PV,
            "near": near_PV.log_softmax(-1),
            "collapsed": few_PV.log_softmax(-1),
        }

    @cached_property
    def log_z(self) -> float:
        return float((self.log_prior_PV + self.log_e_PV).logsumexp(-1).mean())

    def mean(self, log_p_PV: Tensor, value_PV: Tensor) -> float:
        p_PV = log_p_PV.exp()
        return float(torch.where(p_PV > 0, p_PV * value_PV, 0.0).sum(-1).mean())

    @property
    def reward_PV(self) -> Tensor:
        return self.beta * self.log_e_PV.where(~self.log_e_PV.isneginf(), 0.0)

    def kl(self, log_p_PV: Tensor, log_q_PV: Tensor) -> float:
        return self.mean(log_p_PV, log_p_PV - log_q_PV)

    @cached_property
    def exact(self) -> Any:
        """By enumeration."""
        return po.exact(self.target)

    @cached_property
    def models(self) -> dict[str, Any]:
        """The policies as language models; the prior is the target's own."""
        made = {name: self.table(log_p_PV) for name, log_p_PV in self.policies.items()}
        return {**made, "prior": self.target.prior}

    def truth(self, policy: str, num_samples: int) -> dict[str, float]:
        """Of a policy, the means over prompts by the names of `po.evaluate`."""
        found = self.exact.evaluate(self.models[policy], num_samples)
        return {name: float(each.mean()) for name, each in found.items()}


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _levels(*levels: tuple[float, float]) -> tuple[list[float], list[float]]:
    """Outcomes (probability, log-evidence); what is left of the probability has evidence 1."""
    rest = 1.0 - sum(p for p, _ in levels)
    return [0.6 * rest, 0.4 * rest, *(p for p, _ in levels)], [0.0, 0.0, *(e for _, e in levels)]


def _of(*prompts: tuple[list[float], list[float]], stated: bool = True) -> World:
    return World(
        torch.tensor([p for p, _ in prompts]), torch.tensor([e for _, e in prompts]), stated=stated
    )


def _normal(seed: int, spread: float, prompts: int = 2, tokens: int = 5, depth: int = 4) -> World:
    """Log-evidence from a normal law over sequences, as a reward model's."""
    shape = (prompts, tokens**depth)
    prior = torch.randn(shape, generator=_random(seed), dtype=torch.float64).softmax(-1)
    log_e = spread * torch.randn(shape, generator=_random(seed + 1), dtype=torch.float64)
    return World(prior, log_e, depth=depth, stated=False)


def _heavy() -> World:
    log_e = 3.7 * torch.randn(1, 4096, generator=_random(3), dtype=torch.float64)
    return World(torch.ones(1, 4096), log_e, depth=4, stated=False)


def _pareto() -> World:
    uniform = torch.rand(1, 4096, generator=_random(8), dtype=torch.float64)
    return World(torch.ones(1, 4096), -uniform.log() / 1.4, depth=4)


def _needle() -> World:
    """One sequence of five tokens in a thousand is worth eight nats, beside noise."""
    log_e = 0.3 * torch.randn(1, 1024, generator=_random(5), dtype=torch.float64)
    log_e[0, 777] = 8.0
    return World(torch.ones(1, 1024), log_e, depth=5)


def _grades() -> World:
    """A reward of 0 or 1 that five prompts earn with other probabilities, and no bound stated."""
    rates = (0.5, 0.3, 0.1, 0.01, 0.001)
    return _of(*(_levels((rate, 4.0)) for rate in rates), stated=False)


def _uneven() -> World:
    easy = ([0.5, 0.498, 0.002], [0.0, -0.5, 0.0])
    return _of(easy, ([0.5, 0.498, 0.002], [-8.0, -8.0, 0.0]), stated=False)


def _dry() -> World:
    """One prompt of two has evidence for one outcome in 200."""
    dry = ([0.6, 0.395, 0.005], [-math.inf, -math.inf, 0.5])
    return _of(([0.5, 0.3, 0.2], [0.0, 0.5, 1.0]), dry, stated=False)


def _left_tail() -> World:
    """Most outcomes are alike, and some are far worse: log-evidence with a heavy tail below."""
    log_e = -(1.5 * torch.randn(1, 4096, generator=_random(31), dtype=torch.float64)).exp()
    return World(torch.ones(1, 4096), log_e, depth=4, stated=False)


def _scales() -> World:
    """Prompts whose evidence has other units: spreads of 0.05, 1 and 4 nats, from other levels."""
    log_e = torch.randn(3, 1024, generator=_random(41), dtype=torch.float64)
    spread, level = torch.tensor([0.05, 1.0, 4.0]), torch.tensor([40.0, 0.0, -60.0])
    log_e = (log_e * spread[:, None] + level[:, None]).double()
    return World(torch.ones(3, 1024), log_e, depth=5, stated=False)


def _many() -> World:
    """Forty prompts, of which one has its evidence where its prior hardly goes."""
    prior = torch.randn((40, 64), generator=_random(51), dtype=torch.float64).softmax(-1)
    log_e = 0.5 * torch.randn((40, 64), generator=_random(52), dtype=torch.float64)
    prior[7, :] = 0.999 * prior[7] / prior[7].sum()
    prior[7, 5] = 0.001
    log_e[7, 5] = 7.0
    return World(prior, log_e, depth=3, stated=True)


def _ties_at_the_top() -> World:
    """A third of the mass has the most evidence there is, beside a continuum below."""
    log_e = 1.5 * torch.randn(2, 1024, generator=_random(61), dtype=torch.float64)
    return World(torch.ones(2, 1024), log_e.clamp(max=0.6), depth=5, stated=True)


def _both_tails() -> World:
    """Student's t with two degrees of freedom."""
    normal = torch.randn(3, 2, 1024, generator=_random(71), dtype=torch.float64)
    log_e = 0.7 * normal[0] / (normal[1:].square().mean(0)).sqrt()
    return World(torch.ones(2, 1024), log_e.clamp(max=12.0), depth=5, stated=False)


def _copies() -> World:
    """Eight outcomes in all, so that particles are copies of each other."""
    prior = torch.tensor([[0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02]])
    return World(prior, torch.tensor([[0.0, 0.5, 0.2, 1.0, -1.0, 2.0, 2.5, 3.0]]), depth=3)


def _grades_of_four() -> World:
    """Four grades, one more than are taken for one scale of all prompts, and rare at the top."""
    rates = ((0.3, 0.2, 0.1), (0.1, 0.03, 0.02), (0.03, 0.003, 0.0005))
    return _of(*(_levels(*zip(rate, (1.0, 2.0, 4.0), strict=True)) for rate in rates), stated=False)


def _noisy_grade() -> World:
    """Right or wrong, four nats apart, and a small continuous reward beside it."""
    noise = 0.02 * torch.randn(3, 512, generator=_random(91), dtype=torch.float64)
    prior, log_e = torch.ones(3, 512, dtype=torch.float64), noise
    for row, rate in enumerate((0.5, 0.1, 0.002)):
        right = 2 if rate < 0.01 else round(512 * rate)
        prior[row, :right] = 512 * rate / right
        prior[row, right:] = 512 * (1 - rate) / (512 - right)
        log_e[row, :right] += 4.0
    return World(prior, log_e, depth=3, stated=False)


def _stairs() -> World:
    """Levels 1.9 nats apart, just less than is called a gap, each a tenth as probable."""
    return _of(_levels((0.09, 1.9), (0.009, 3.8), (0.0009, 5.7)))


def _slow_tail() -> World:
    """A tail that is heavier than any mean of draws can show, and no bound."""
    uniform = torch.rand(1, 4096, generator=_random(95), dtype=torch.float64)
    return World(torch.ones(1, 4096), -uniform.log() / 1.1, depth=4, stated=False)


def _answers() -> World:
    """Right or wrong at beta 0.1, over prompts of very different difficulty: verifiable rewards."""
    rates = (0.9, 0.6, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    return _of(*(_levels((rate, 10.0)) for rate in rates), stated=False)


WORLDS: dict[str, Callable[[], World]] = {
    "near": lambda: _normal(11, 0.6),
    "near, stated": lambda: _of(_levels((0.3, 1.0), (0.1, 2.0)), _levels((0.2, 1.5), (0.2, 0.5))),
    "ties": lambda: _of(_levels((0.0024, 1 / 0.3))),
    "jackpot 0.1%": lambda: _of(_levels((1e-3, 10.0))),
    "jackpot 0.01%": lambda: _of(_levels((1e-4, 10.0))),
    "uneven": _uneven,
    "heavy": _heavy,
    "hard": lambda: _of(([0.59, 0.4, 0.01], [-40.0, -40.0, 0.0])),
    "scale": lambda: _of(([0.4, 0.4, 0.2], [0.0, 2.5, 5.0])),
    "two steps": lambda: _of(_levels((0.03, 3.0), (0.0003, 9.0))),
    "grades": _grades,
    "pareto": _pareto,
    "needle": _needle,
    "penalty": lambda: _of(([0.57, 0.4, 0.03], [-6.0, -5.0, 0.0])),
    "strong": lambda: _normal(21, 2.0),
    "one dry": _dry,
    "left tail": _left_tail,
    "scales": _scales,
    "many prompts": _many,
    "ties at the top": _ties_at_the_top,
    "both tails": _both_tails,
    "copies": _copies,
    "between": lambda: _normal(81, 1.2, prompts=3),
    "grades of four": _grades_of_four,
    "noisy grade": _noisy_grade,
    "stairs": _stairs,
    "slow tail": _slow_tail,
    "answers": _answers,
}
"""Two usual worlds; seven in which estimates were once found to be wrong and silent; and others
that were made to break the rule."""
