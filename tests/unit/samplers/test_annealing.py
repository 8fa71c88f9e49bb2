"""Annealing by enumeration: every path of the library's own loops, on a table of three outcomes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers import WORDS, generator, reward

import posteriori as po
from posteriori.errors import ConfigError, SamplingError
from posteriori.samplers.annealing import annealed, ladder, reverse_annealing
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves
from posteriori.testing.cases import outcomes_of
from posteriori.testing.kernel_matrix import KernelMatrix, WithoutLengths

LADDER = (0.0, 0.35, 1.0)


def worth(completion_ids, **kwargs):
    return [{(0,): 0.4, (1, 0): -1.0, (1, 1): 1.3}[tuple(y)] for y in completion_ids]


def not_a_a(completion_ids, **kwargs):
    return [list(y) != [1, 1] for y in completion_ids]


def tiny_target(hard: bool) -> po.Target:
    table = po.TabularLM.random(WORDS[:2], 2, ("x",), seed=4)
    evidence = [po.Reward(worth, beta=0.7), *([po.Constraint(not_a_a)] if hard else [])]
    return po.Target(table, evidence, table.prompts, 2)


class Scripted(SuffixMoves):
    """Moves that take each row where a script says, and know how probable that was."""

    def script(self, matrix: KernelMatrix, steps: list[torch.Tensor]) -> Scripted:
        self.known, self.steps = matrix, list(steps)
        self.log_p_N = torch.zeros(len(steps[0]), dtype=torch.float64)
        return self

    def step(self, states, t, generator):
        old_N, new_N = self.known.index(states.completions), self.steps.pop(0)
        self.log_p_N = self.log_p_N + self.known.matrix(t)[old_N, new_N].log()
        return self.known.states.select(new_N), torch.ones(len(new_N), dtype=torch.bool)


class MovesTooSoon(Scripted):
    """A mutant whose moves keep the distribution of the rung before."""

    def step(self, states, t, generator):
        return super().step(states, LADDER[LADDER.index(t) - 1], generator)


def paths(choices: list[int]) -> list[torch.Tensor]:
    """Every combination of so many choices each, a column a choice."""
    return list(torch.tensor(list(itertools.product(*map(range, choices)))).T)


def weighted(target, monkeypatch, kind=Scripted, matrix_of=SuffixMoves, below=1.0):
    """sum over all paths of P(path) (1/2) sum_n w_n 1(y_n = y), two particles and two rungs; [S].

    A path is where both particles start, what the one uniform number of a resampling decides
    (twice), and where both move (twice).
    """
    q = target.prior
    matrix = KernelMatrix(matrix_of(target, q), outcomes_of(q, "x", 2, 2))
    a0, b0, cut_1, a1, b1, cut_2, a2, b2 = paths([3, 3, 2, 3, 3, 2, 3, 3])
    start_N, steps = torch.stack([a0, b0], 1).flatten(), [(a1, b1), (a2, b2)]
    moves = kind(target, q).script(matrix, [torch.stack(pair, 1).flatten() for pair in steps])
    log_p_G = torch.zeros(len(a0), dtype=torch.float64)
    cuts = [cut_1, cut_2]
    real = annealed.ancestors

    def both_sides(scheme, log_w_GK, size_G, uniform_GU):
        """Two particles' systematic ancestors change once, at u = 2 W_1 mod 1."""
        nonlocal log_p_G
        at_G = (2 * log_w_GK.softmax(1)[:, 0]) % 1
        second_G = cuts.pop(0) == 1
        log_p_G = log_p_G + torch.where(second_G, 1 - at_G, at_G).log()
        inside_G = torch.where(second_G, (1 + at_G) / 2, at_G / 2)
        return real(scheme, log_w_GK, size_G, inside_G[:, None])

    monkeypatch.setattr(annealed, "ancestors", both_sides)
    drawn, _ = annealed.anneal(
        moves, LADDER, matrix.states.select(start_N), 2, 1, below, generator()
    )
    log_p_G = log_p_G + (matrix.log_q_S[start_N] + moves.log_p_N).view(-1, 2).sum(1)
    assert abs(float(log_p_G.exp().sum()) - 1) < 1e-12, "all paths together"
    share_N = log_p_G.exp().repeat_interleave(2) / 2
    total_S = torch.zeros(len(matrix), dtype=torch.float64)
    index_N = matrix.index(drawn.completions)
    total_S.index_add_(0, index_N, share_N * drawn.log_weight.exp().where(share_N > 0, 0.0))
    wanted_S = (matrix.states.log_prior_N + matrix.states.log_evidence_N).exp()
    return total_S, wanted_S


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("below", [0.0, 0.7, 1.0])
def test_annealed_is_properly_weighted(monkeypatch, hard, below):
    """26,244 paths, with resampling never, sometimes and always: E[w 1(y)] = p~(y)."""
    total, wanted = weighted(tiny_target(hard), monkeypatch, below=below)
    torch.testing.assert_close(total, wanted, rtol=0, atol=1e-12)


def forgets_z(log_w_GK, below, generator):
    log_w_GK, ancestor_N = _resampled(log_w_GK, below, generator)
    return log_w_GK.where(log_w_GK[:, :1] != log_w_GK[:, 1:], 0.0), ancestor_N


_resampled = annealed.resampled


@pytest.mark.parametrize("mutant", ["moves too soon", "without |y|/|y'|", "forgets Z-hat"])
def test_mutants_are_not(monkeypatch, mutant):
    settings = {}
    if mutant == "moves too soon":
        settings["kind"] = MovesTooSoon
    elif mutant == "forgets Z-hat":
        monkeypatch.setattr(annealed, "resampled", forgets_z)
    else:
        settings["matrix_of"] = WithoutLengths
    total, wanted = weighted(tiny_target(False), monkeypatch, **settings)
    assert float((total - wanted).abs().max()) > 1e-3


def mean_inverse(hard: bool, kind=SuffixMoves) -> float:
    """E[exp(-lw)] over all ways back, times Z, divided by P_q(w > 0)."""
    target = tiny_target(hard)
    q = target.prior
    matrix = KernelMatrix(kind(target, q), outcomes_of(q, "x", 2, 2))
    start_N, first_N, second_N = paths([3, 3, 3])
    moves = Scripted(target, q).script(matrix, [first_N, second_N])
    log_w_N = reverse_annealing.descend(
        moves, LADDER, matrix.states.select(start_N), 1, generator()
    )
    share_N = matrix.law()[start_N] * moves.log_p_N.exp()
    assert abs(float(share_N.sum()) - 1) < 1e-12
    inverse = float((share_N * (-log_w_N).exp()).where(share_N > 0, 0.0).sum())
    alive = float(matrix.log_q_S.exp()[matrix.states.log_evidence_N.isfinite()].sum())
    return inverse * math.exp(po.exact(target).log_z[0]) / alive


@pytest.mark.parametrize("hard", [False, True])
def test_the_way_back_has_the_inverse_of_z(hard):
    """E[exp(-lw)] = 1/Z, or P_q(w > 0) / Z with hard evidence; and a wrong kernel another mean."""
    assert abs(mean_inverse(hard) - 1) < 1e-12
    if not hard:
        assert abs(mean_inverse(hard, WithoutLengths) - 1) > 1e-2


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(reward, beta=0.3), table.prompts, 3)


def test_num_samples_draws_whatever_the_replicates(target):
    """50 draws from 16 populations of four: 14 are left out, and each draw is of one population."""
    drawn = po.sample(target, "annealed", 50, seed=1)
    assert drawn.prompts == [p for p in target.prompts for _ in range(50)]
    assert drawn.guarantee == "properly_weighted"
    assert [e.num_draws for e in drawn.log_z.per_prompt] == [64, 64]
    assert set(drawn.group_N.tolist()) <= set(range(32))
    assert bool((drawn.group_N // 16 == drawn.completions.prompt_index_N).all())


def test_log_z_is_over_all_populations_in_one_round_or_several(target, monkeypatch):
    settings = {"replicates": 6, "ladder": [0, 0.2, 1]}
    exact = po.exact(target).log_z
    for together in (4, 1024):
        monkeypatch.setattr(annealed, "_ROUND", together)
        told = []
        hear = told.append
        drawn = po.sample(
            target, "annealed", 24, on_progress=lambda *now, hear=hear: hear(now), **settings
        )
        # A population goes up two rungs: one by one, or all together.
        assert told == [(k, 12) for k in (range(1, 13) if together == 4 else (6, 12))]
        for at, estimate in enumerate(drawn.log_z.per_prompt):
            mine = drawn.completions.prompt_index_N == at
            assert estimate.value == pytest.approx(float(drawn.log_weight[mine].exp().mean().log()))
            assert estimate.kind == "lower_bound"
            assert abs(estimate.value - exact[at]) < 2
        assert drawn.cost.evidence_calls == 2 * 24 * (1 + 2 * 2)


def test_a_seed_gives_the_same_ladder_and_draws(target):
    first, second, third = (po.sample(target, "annealed", 40, seed=s) for s in (1, 1, 2))
    assert first.completion_ids == second.completion_ids
    assert torch.equal(first.log_weight, second.log_weight)
    assert first.completion_ids != third.completion_ids
    assert ladder.adapt_ladder(target, seed=3) == ladder.adapt_ladder(target, seed=3)


def test_the_ladder_has_more_rungs_where_the_evidence_is_sharper(table):
    def rungs(beta):
        target = po.Target(table, po.Reward(reward, beta=beta), table.prompts, 3)
        found = ladder.adapt_ladder(target, num_particles=1000)
        ladder.check_ladder(found)
        return len(found) - 1

    assert rungs(50.0) == 1
    assert 1 < rungs(0.3) < rungs(0.05)


def test_each_step_of_the_ladder_leaves_as_many_effective_as_asked():
    log_w_PN = torch.randn(3, 500, generator=generator(), dtype=torch.float64) * 10
    log_w_PN[1] *= 3
    log_w_PN[2, :250] = -torch.inf
    step = ladder.next_step(log_w_PN, 1.0, 0.5)
    alive_P = torch.tensor([500, 500, 250])
    share_P = annealed.ess(step * log_w_PN) / alive_P
    assert float(share_P.min()) == pytest.approx(0.5, abs=1e-6)
    assert ladder.next_step(torch.zeros(2, 5).double(), 0.4, 0.5) == 0.4
    assert ladder.next_step(torch.full((1, 5), -torch.inf).double(), 0.4, 0.5) == 0.4


@pytest.mark.parametrize(
    "wrong", [(0.0,), (0.0, 0.5), (0.1, 1.0), (0.0, 0.5, 0.5, 1.0), (0.0, 0.7, 0.5, 1.0)]
)
def test_a_ladder_climbs_from_0_to_1(target, wrong):
    with pytest.raises(ConfigError, match="does not climb from 0 to 1"):
        po.sample(target, "annealed", 10, ladder=wrong)
    exact = replace(po.sample(target, "importance", 10), guarantee="exact")
    with pytest.raises(ConfigError, match="does not climb"):
        reverse_annealing.reverse_annealed_log_z(target, exact, wrong)


def test_the_way_back_wants_exact_draws_of_every_prompt(target):
    drawn = po.sample(target, "importance", 10)
    with pytest.raises(ConfigError, match="'properly_weighted', and the upper bound needs exact"):
        reverse_annealing.reverse_annealed_log_z(target, drawn, LADDER)
    half = replace(drawn.select(slice(0, 10)), guarantee="exact")
    with pytest.raises(SamplingError, match="no exact draw for the prompt 'y'"):
        reverse_annealing.reverse_annealed_log_z(target, half, LADDER)


def test_nothing_but_ruled_out_texts(table):
    """No population ends with a weight: log Z-hat is -inf, its error infinite, with a finding."""
    target = po.Target(
        table, po.Constraint(lambda completions, **kw: [False] * len(completions)), table.prompts, 3
    )
    drawn = po.sample(target, "annealed", 32)
    assert [e.value for e in drawn.log_z.per_prompt] == [-math.inf] * 2
    assert [e.standard_error for e in drawn.log_z.per_prompt] == [math.inf] * 2
    assert [finding.name for finding in drawn.findings] == ["evidence_never_satisfied"]
