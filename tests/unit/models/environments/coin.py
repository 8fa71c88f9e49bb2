"""An environment of chance over a model of a few words, and all of its episodes."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers import EOS, outcome_ids
from torch import Tensor

import posteriori as po

WORDS = 6
DEPTH = 4
WIN, LOSE, SAFE = 1, 2, 3
PLAYERS = (3, 4, 5)
LUCK = 0.5


def coin(episodes: list[po.Episode]) -> list[list[int] | None]:
    """Whoever begins with c, d or e (tokens 3 to 5) plays, and wins one time in two."""
    replies: list[list[int] | None] = []
    for episode in episodes:
        if len(episode.turns) > 1:
            replies.append(None)
            continue
        drawn = torch.rand(1, generator=torch.Generator().manual_seed(episode.seed)).item()
        replies.append([WIN if drawn < LUCK else LOSE] if plays(episode.turns[0]) else [SAFE])
    return replies


def mirror(episodes: list[po.Episode]) -> list[list[int] | None]:
    """Without chance: players win, others are safe."""
    return [
        None if len(each.turns) > 1 else [WIN if plays(each.turns[0]) else SAFE]
        for each in episodes
    ]


def plays(turn: str) -> bool:
    return turn.split()[:1] in (["c"], ["d"], ["e"])


def every_episode(
    lm: po.CausalLM, prompt: str, chance: bool = True
) -> tuple[po.Completions, Tensor]:
    """All episodes of at most two turns, and the log-probability of what the environment says."""
    rows: list[tuple[list[int], list[bool], float, tuple[tuple[int, ...], ...]]] = []
    for turn in outcome_ids(WORDS, DEPTH):
        own = [True] * len(turn)
        if turn[-1] != EOS or len(turn) == DEPTH:
            rows.append((turn, own, 0.0, ()))
            continue
        lottery = {WIN: LUCK, LOSE: 1 - LUCK} if chance else {WIN: 1.0}
        for said, probability in (lottery if turn[0] in PLAYERS else {SAFE: 1.0}).items():
            log_p = float(torch.tensor(probability, dtype=torch.float64).log())
            begun, whose = [*turn, said], [*own, False]
            if len(begun) == DEPTH:
                rows.append((begun, whose, log_p, ((said,),)))
                continue
            rows += [
                ([*begun, *last], [*whose, *[True] * len(last)], log_p, ((said,),))
                for last in outcome_ids(WORDS, DEPTH - len(begun))
            ]
    width = DEPTH
    template = lm.completions([prompt], [[EOS]], DEPTH)
    episodes = replace(
        template,
        prompt_index_N=torch.zeros(len(rows), dtype=torch.long),
        tokens_NL=torch.tensor([ids + [0] * (width - len(ids)) for ids, *_ in rows]),
        lengths_N=torch.tensor([len(ids) for ids, *_ in rows]),
        ended_N=torch.tensor([ids[-1] == EOS and own[-1] for ids, own, *_ in rows]),
        own_NL=torch.tensor([own + [False] * (width - len(own)) for _, own, *_ in rows]),
        replies=tuple(said for *_, said in rows),
    )
    return episodes, torch.tensor([log_p for _, _, log_p, _ in rows], dtype=torch.float64)


def luck_of(episodes: po.Completions) -> Tensor:
    """log e: 3 nats for winners, -4 for losers, 0 for the others."""
    value = {WIN: 3.0, LOSE: -4.0}
    assert episodes.replies is not None
    return torch.tensor(
        [value.get(said[0][0], 0.0) if said else 0.0 for said in episodes.replies],
        dtype=torch.float64,
    )


class Luck:
    """`luck_of` as evidence."""

    def score(self, completions, columns):
        from posteriori.core.protocols import Scores

        return Scores(luck_of(completions), luck_of(completions))
