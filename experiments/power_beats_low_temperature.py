"""Power sampling beats low temperature: the one is prior^alpha, the other only token by token.

A temperature of 1/alpha sharpens every next-token law, and knows nothing of what follows. Moves of
Metropolis-Hastings on whole suffixes end at prior^alpha (2510.14901). Both laws are compared with
it by enumeration; that of the sampler by its draws, whose own chance is given beside.

    python experiments/power_beats_low_temperature.py [--quick] [--figure power.svg]
"""

from __future__ import annotations

import numpy as np
import torch
from common import DEPTH, PROMPTS, Verdict, figure, main, prior

import posteriori as po

ALPHA = 4.0
MOVES = (1, 4, 16, 64)


def run(num_samples: int) -> Verdict:
    lm = prior(seed=2)
    exact = po.exact(po.Target(lm, [], PROMPTS, DEPTH))
    wanted = [(ALPHA * p).log_softmax(0) for p in exact.log_prior]
    cold = exact.log_prob(lm.token_power(ALPHA))
    temperature = np.mean([_tv(p.exp(), q.exp()) for p, q in zip(cold, wanted, strict=True)])
    target = po.Target(lm, [], PROMPTS, DEPTH)
    found = []
    for moves in MOVES:
        draws = po.sample(
            target, "power", num_samples, seed=moves, alpha=ALPHA, block=1, moves=moves
        )
        found.append(np.mean(_off(draws.completions, exact, wanted)))
    stream = torch.Generator().manual_seed(0)
    chance = np.mean(
        [
            _tv(
                _counts(torch.multinomial(q.exp(), num_samples, True, generator=stream), q), q.exp()
            )
            for q in wanted
        ]
    )
    drawn, axes = figure("Distance to prior^alpha", "moves per block", "total variation")
    axes.plot(MOVES, found, "C0o-", label="power sampling")
    axes.axhline(temperature, color="C1", linestyle="--", label="temperature 1/alpha")
    axes.axhline(chance, color="gray", linestyle=":", label="exact draws, as many")
    axes.legend(fontsize=8)
    return Verdict(
        "power sampling is nearer to prior^alpha than a low temperature, by more with more moves",
        bool(max(found) < temperature and found[-1] < temperature / 2),
        f"total variation to prior^{ALPHA:g}: temperature {temperature:.3f}; power sampling "
        + ", ".join(f"{tv:.3f} with {moves}" for moves, tv in zip(MOVES, found, strict=True))
        + f" moves per block; as many exact draws {chance:.3f}",
        drawn,
    )


def _tv(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p - q).abs().sum() / 2)


def _counts(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.bincount(rows, minlength=len(like)).double() / len(rows)


def _off(completions: po.Completions, exact: po.Exact, wanted: list[torch.Tensor]) -> list[float]:
    off = []
    for at, outcomes in enumerate(exact.outcomes):
        place = {tuple(ids): row for row, ids in enumerate(outcomes.completion_ids)}
        mine = completions.select(completions.prompt_index_N == at)
        rows = torch.tensor([place[tuple(ids)] for ids in mine.completion_ids])
        off.append(_tv(_counts(rows, wanted[at]), wanted[at].exp()))
    return off


if __name__ == "__main__":
    main(run, __doc__ or "", (1500, 20000))
