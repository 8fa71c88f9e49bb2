"""pi K = pi by matrix for every kernel, on outcomes of several lengths; mutants are caught.

And the code does what the matrix says: one step from every state, against the rows of the matrix.
"""

from __future__ import annotations

import pytest
import torch
from helpers import WORDS, generator, has_c, reward

import posteriori as po
from posteriori.samplers.mcmc.imh import scan
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves
from posteriori.testing import check_kernel
from posteriori.testing.cases import outcomes_of
from posteriori.testing.kernel_matrix import MUTANTS, KernelMatrix, chi_squared

FALSE_ALARM = 1e-6


@pytest.fixture(params=["prior", "another"])
def world(request, table):
    """A target, and a proposal that is its prior or not."""
    other = po.TabularLM.random(WORDS[:4], 3, table.prompts, seed=2, scale=0.7)
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    return target, table if request.param == "prior" else other


def kernel(world, kind=SuffixMoves, prompt="x", **settings) -> KernelMatrix:
    target, proposal = world
    return KernelMatrix(kind(target, proposal, **settings), outcomes_of(proposal, prompt, 3, 4))


def gap(matrix: KernelMatrix, t: float) -> float:
    law = matrix.law(t)
    return float((law @ matrix.matrix(t) - law).abs().max())


@pytest.mark.parametrize("prompt", ["x", "y"])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_suffix_moves_leave_the_tempered_target(world, prompt, t):
    matrix = kernel(world, prompt=prompt)
    check_kernel(matrix.matrix(t), matrix.law(t), tolerance=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_suffix_moves_reach_everything(world, t):
    assert float(kernel(world).matrix(t).min()) > 0


def test_suffix_moves_are_reversible(world):
    """law(y) K(y, y') = law(y') K(y', y): their own reverse, as annealing backwards needs."""
    matrix = kernel(world)
    check_kernel(matrix.matrix(0.3), matrix.law(0.3), reversible=True, tolerance=1e-14)


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("t", [0.3, 1.0])
def test_mutants_do_not(world, mutant, t):
    assert gap(kernel(world, mutant), t) > 1e-3


def test_a_move_that_spares_the_last_token_does_not(world):
    """Positions among all tokens but the last, with |y| / |y'| as if among all."""
    matrix = kernel(world)
    law = matrix.law()
    assert float((law @ matrix.matrix(last=1) - law).abs().max()) > 1e-3


def test_hard_evidence_is_never_left(table):
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    matrix = kernel((target, table))
    assert gap(matrix, 1.0) < 1e-14
    inside = torch.tensor([3 in y for y in matrix.states.completion_ids])
    assert float(matrix.matrix()[inside][:, ~inside].max()) == 0
    torch.testing.assert_close(matrix.matrix()[~inside], matrix.proposals()[~inside])


@pytest.mark.parametrize("alpha", [0.5, 3.0])
@pytest.mark.parametrize("end", [1, 2, 3])
def test_power_steps_leave_every_prefix_target(world, alpha, end):
    """prior^alpha over outcomes of at most `end` tokens, and times the evidence at the last."""
    target, _ = world
    q = target.prior.token_power(alpha)
    outcomes = outcomes_of(q, "x", end, 4)
    for with_evidence in {False, end == 3}:
        moves = SuffixMoves(target, q, alpha=alpha, with_evidence=with_evidence)
        assert gap(KernelMatrix(moves, outcomes), 1.0) < 1e-14
        for mutant in MUTANTS if end > 1 else ():
            wrong = mutant(target, q, alpha=alpha, with_evidence=with_evidence)
            assert gap(KernelMatrix(wrong, outcomes), 1.0) > 1e-4


def test_tokens_to_a_power_are_not_the_power(table):
    """Why `power` needs moves: temperature 1/alpha token by token is another distribution."""
    moves = SuffixMoves(po.Target(table, [], table.prompts, 3), table.token_power(3.0), alpha=3.0)
    matrix = KernelMatrix(moves, outcomes_of(table, "x", 3, 4))
    assert float((matrix.law() - matrix.log_q_S.exp()).abs().sum()) / 2 > 0.05


def test_imh_leaves_the_target(world):
    """K(y, y') = q(y') min(1, w'/w), where `scan` accepts below that and nowhere above."""
    matrix = kernel(world)
    log_w_S = matrix.moves.log_weight(matrix.states)
    ratio = (log_w_S[None, :] - log_w_S[:, None]).exp().clamp(max=1.0)
    for nudge, accepted in ((1 - 1e-9, True), (1 + 1e-9, False)):
        for log_w, ratio_S in zip(log_w_S, ratio, strict=True):
            uniform_S = ratio_S * nudge
            _, accept_S1 = scan(log_w.expand(len(matrix)), log_w_S[:, None], uniform_S[:, None])
            assert bool((accept_S1[:, 0] == accepted)[uniform_S < 1].all())
    moving = matrix.log_q_S.exp() * ratio
    transition = moving + torch.diag(1 - moving.sum(1))
    law = matrix.law()
    assert float((law @ transition - law).abs().max()) < 1e-14
    upside_down = matrix.log_q_S.exp() * ratio.T
    wrong = upside_down + torch.diag(1 - upside_down.sum(1))
    assert float((law @ wrong - law).abs().max()) > 1e-3


def test_scan_keeps_its_place_among_states_and_proposals():
    """Two chains, three proposals each: places count the two states first."""
    log_w_N = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    log_w_NS = torch.tensor([[-1.0, 2.0, 1.0], [-torch.inf, -5.0, -torch.inf]]).double()
    uniform_NS = torch.tensor([[0.5, 0.9, 0.5], [0.9, 0.9, 0.1]]).double()
    place, accept = scan(log_w_N, log_w_NS, uniform_NS)
    assert accept.tolist() == [[False, True, False], [True, True, False]]
    assert place.tolist() == [[0, 3, 3], [5, 6, 6]]


def one_step(world, kind=SuffixMoves, seed=1, each=2000) -> list[float]:
    """P-values of one step of the code from every state, against the rows of its matrix."""
    matrix = kernel(world, kind)
    states = matrix.states.select(torch.arange(len(matrix)).repeat_interleave(each))
    moved, _ = matrix.moves.step(states, 0.7, generator(seed))
    torch.testing.assert_close(
        moved.completions.token_log_prob_NL,
        matrix.moves.proposal.token_log_prob(moved.completions).detach(),
    )
    index = matrix.index(moved.completions).view(len(matrix), each)
    reference = kernel(world).matrix(0.7)
    return [chi_squared(*pair) for pair in zip(index, reference, strict=True)]


def test_a_step_does_what_the_matrix_says(world):
    """40 states each: Bonferroni, so the rate is 1e-6 over all of them. 2,000 steps a state find
    each mutant (below)."""
    p_values = one_step(world)
    assert min(p_values) > FALSE_ALARM / len(p_values)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_step_of_a_mutant_is_found(world, mutant):
    assert min(one_step(world, mutant)) < FALSE_ALARM / 100
