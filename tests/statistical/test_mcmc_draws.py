"""Chains on the oracle have the law that their matrices say: chi-squared, false-alarm rate 1e-6.

With as many chains as draws the draws are independent, and their law after n steps is known
exactly: (law of the start) K^n over the 781 outcomes. So the whole sampler is tested, start and
loop and all, and not in the limit. The same draws find each mutant.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers import WORDS, OracleCase, has_c

import posteriori as po
from posteriori.samplers.mcmc import mh, power
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves
from posteriori.testing.cases import outcomes_of
from posteriori.testing.kernel_matrix import (
    KernelMatrix,
    ProposalUpsideDown,
    UpsideDown,
    WithoutLengths,
    chi_squared,
    draws_needed,
)

pytestmark = pytest.mark.long

FALSE_ALARM = 1e-6
ALPHA = 2.0


def worlds():
    yield pytest.param("case_1", False, id="case_1")
    yield pytest.param("case_2", False, id="case_2", marks=pytest.mark.slow)
    yield pytest.param("case_1", True, id="case_1 with a c")


def target_of(name: str, hard: bool) -> po.Target:
    case = OracleCase(name)
    target = case.target()
    if not hard:
        return target
    evidence = [*target.evidence, po.Constraint(has_c)]
    return po.Target(target.prior, evidence, case.prompts, 4)


def matrices(target, q=None, end=4, kind=SuffixMoves, **settings) -> list[KernelMatrix]:
    q = q or target.prior
    return [
        KernelMatrix(kind(target, q, **settings), outcomes_of(q, prompt, end, len(WORDS)))
        for prompt in target.prompts
    ]


def p_values(drawn, laws, known) -> list[float]:
    found = []
    for at, (law, matrix) in enumerate(zip(laws, known, strict=True)):
        mine = drawn.completions.select(drawn.completions.prompt_index_N == at)
        found.append(chi_squared(matrix.index(mine), law))
    return found


def started(matrix: KernelMatrix) -> torch.Tensor:
    """Draws of q with evidence."""
    alive = matrix.states.log_evidence_N.isfinite()
    law = matrix.log_q_S.exp() * alive
    return law / law.sum()


def after(known, steps: int) -> list[torch.Tensor]:
    return [started(m) @ torch.linalg.matrix_power(m.matrix(), steps) for m in known]


@pytest.mark.parametrize(("name", "hard"), worlds())
def test_mh(monkeypatch, name, hard):
    """8,000 chains are enough, by computation, for either mutant to be found."""
    target = target_of(name, hard)
    known = matrices(target)
    steps, num = 4, 8000
    laws = after(known, steps)
    settings = {"chains": num, "burn_in": steps - 1, "thin": 1, "start_budget": 200_000}
    drawn = po.sample(target, "mh", num, seed=1, **settings)
    assert min(p_values(drawn, laws, known)) > FALSE_ALARM / 3
    if hard:
        return
    for mutant in (WithoutLengths, ProposalUpsideDown):
        wrong_laws = after(matrices(target, kind=mutant), steps)
        assert min(map(draws_needed, laws, wrong_laws)) <= num
        monkeypatch.setattr(mh, "SuffixMoves", mutant)
        wrong = po.sample(target, "mh", num, seed=1, **settings)
        assert min(p_values(wrong, laws, known)) < FALSE_ALARM / 3


@pytest.mark.parametrize(("name", "hard"), worlds())
def test_imh(name, hard):
    target = target_of(name, hard)
    known = matrices(target)
    laws, steps = [], 4
    for matrix in known:
        log_w_S = matrix.moves.log_weight(matrix.states)
        alive = log_w_S.isfinite()
        gain = (log_w_S[None, :] - log_w_S[:, None]).masked_fill(~alive[:, None], torch.inf)
        moving = matrix.log_q_S.exp() * gain.exp().clamp(max=1.0)
        transition = moving + torch.diag(1 - moving.sum(1))
        laws.append(started(matrix) @ torch.linalg.matrix_power(transition, steps))
        assert float((laws[-1] - started(matrix)).abs().sum()) / 2 > 0.1, "it has moved"
    settings = {"chains": 5000, "burn_in": steps - 1, "thin": 1, "start_budget": 200_000}
    drawn = po.sample(target, "imh", 5000, seed=2, **settings)
    assert min(p_values(drawn, laws, known)) > FALSE_ALARM / 3
    for wrong in ([started(m) for m in known], [m.law() for m in known]):
        assert min(p_values(drawn, wrong, known)) < FALSE_ALARM / 3


def power_laws(
    target, block: int, moves: int, kind=SuffixMoves
) -> tuple[list[torch.Tensor], list[KernelMatrix]]:
    """The law of `power` after all its stages, and the last stage's matrices."""
    q = target.prior.token_power(ALPHA)
    laws: list[torch.Tensor] = []
    before: list[KernelMatrix] = []
    for end in [*range(block, 4, block), 4]:
        known = matrices(target, q, end, kind, alpha=ALPHA, with_evidence=end == 4)
        for at, matrix in enumerate(known):
            law = longer(before[at], matrix, laws[at]) if before else matrix.log_q_S.exp()
            laws[at : at + 1] = [law @ torch.linalg.matrix_power(matrix.matrix(), moves)]
        before = known
    return laws, before


def longer(short: KernelMatrix, matrix: KernelMatrix, law: torch.Tensor) -> torch.Tensor:
    """The law once texts that have not ended have gone on by draws of q."""
    now = torch.zeros(len(matrix), dtype=torch.float64)
    for row, y in enumerate(short.states.completion_ids):
        if y[-1] == 0:
            inside = torch.tensor([x == y for x in matrix.states.completion_ids]).double()
        else:
            begins = [x[: len(y)] == y for x in matrix.states.completion_ids]
            inside = matrix.log_q_S.exp() * torch.tensor(begins)
            inside = inside / inside.sum()
        now += law[row] * inside
    return now


@pytest.mark.parametrize(
    ("evidence", "block"), [pytest.param(False, 3, marks=pytest.mark.slow), (True, 3), (False, 2)]
)
def test_power(monkeypatch, evidence, block):
    """From tokens to a power, by blocks, towards prior^alpha (times the evidence).

    8,000 draws are enough, by computation, for the mutant to be found.
    """
    target = OracleCase("case_1").target()
    if not evidence:
        target = po.Target(target.prior, [], target.prompts, 4)
    laws, known = power_laws(target, block, 2)
    num, settings = 8000, {"alpha": ALPHA, "block": block, "moves": 2}
    drawn = po.sample(target, "power", num, seed=3, **settings)
    assert min(p_values(drawn, laws, known)) > FALSE_ALARM / 3
    if evidence or block == 2:
        return
    wrong_laws, _ = power_laws(target, block, 2, UpsideDown)
    assert min(map(draws_needed, laws, wrong_laws)) <= num
    monkeypatch.setattr(power, "SuffixMoves", UpsideDown)
    wrong = po.sample(target, "power", num, seed=3, **settings)
    assert min(p_values(wrong, laws, known)) < FALSE_ALARM / 3


def test_power_tends_to_the_power_with_its_moves():
    """By matrix: the total variation to prior^alpha falls with `moves`, to nothing in the end."""
    target = OracleCase("case_1").target()
    target = po.Target(target.prior, [], target.prompts, 4)
    apart = []
    for moves in (0, 1, 10, 100, 10_000):
        laws, known = power_laws(target, 2, moves)
        pairs = zip(laws, known, strict=True)
        apart.append([float((law - m.law()).abs().sum()) / 2 for law, m in pairs])
    for more, fewer in pairwise(reversed(apart)):
        assert all(a < b for a, b in zip(more, fewer, strict=True))
    assert max(apart[0]) > 0.1
    assert max(apart[-1]) < 1e-6


def test_power_says_when_its_chains_are_not_at_rest():
    """500 chains drift in their only move, and do not in the last 50 of 100, on a fixed seed."""
    table = po.TabularLM.random(WORDS[:4], 3, ("x",), seed=1, scale=2.0)
    few, many = (
        po.sample(po.Target(table, [], table.prompts, 3), "power", 500, alpha=4.0, moves=moves)
        for moves in (1, 100)
    )
    assert [finding.name for finding in few.findings] == ["chains_drift"]
    assert many.findings == ()
    assert abs(many.figures["drift"].value) < abs(few.figures["drift"].value)
