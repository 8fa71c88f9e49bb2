"""Moves inside a text leave the target, by matrix; and the code does what the matrix says."""

from __future__ import annotations

import pytest
import torch
from helpers import WORDS, generator, has_c, reward
from torch import Tensor

import posteriori as po
from posteriori.core.types import Draws
from posteriori.samplers.mcmc.block_moves import BlockMoves
from posteriori.samplers.mcmc.suffix_moves import SuffixMoves
from posteriori.testing.cases import outcomes_of
from posteriori.testing.kernel_matrix import KernelMatrix, chi_squared

FALSE_ALARM = 1e-6
EACH = 1200


@pytest.fixture(params=["prior", "another"])
def world(request, table):
    """A target, and a proposal that is its prior or not."""
    other = po.TabularLM.random(WORDS[:4], 3, table.prompts, seed=2, scale=0.7)
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    return target, table if request.param == "prior" else other


class BlockMatrix(KernelMatrix):
    """K(y, y') of `BlockMoves`; the probability of a proposal is written down here."""

    def __init__(self, world, block: int, kind: type[BlockMoves] = BlockMoves) -> None:
        target, proposal = world
        moves = SuffixMoves(target, proposal)
        super().__init__(moves, outcomes_of(proposal, "x", 3, 4))
        self.block_moves = kind(moves, block)

    def kernel(self) -> Tensor:
        completions, num, block = self.states.completions, len(self), self.block_moves.block
        ids_ST = completions.tokens_NL.masked_fill(~completions.mask_NL, -1)
        moving = torch.zeros(num, num, dtype=torch.float64)
        log_q_ST = completions.token_log_prob_NL
        assert log_q_ST is not None
        old = self.states.select(torch.arange(num).repeat_interleave(num))
        new = self.states.select(torch.arange(num).repeat(num))
        places_S = completions.lengths_N - block
        for start in range(int(places_S.max())):
            within = slice(start, start + block)
            rest_ST = ids_ST.clone()
            rest_ST[:, within] = 0
            same_SS = (rest_ST[:, None] == rest_ST[None]).all(-1)
            ends_S = (ids_ST[:, within] <= 0).any(1)
            fresh_S = log_q_ST[:, within].sum(1).exp() * ~ends_S
            chosen_S = (start < places_S).double() / places_S.clamp(min=1)
            start_N = torch.full((num * num,), start)
            accept = self.block_moves.log_accept(old, new, start_N).exp().clamp(max=1.0)
            moving += chosen_S[:, None] * same_SS * fresh_S * accept.view(num, num)
        return moving + torch.diag(1 - moving.sum(1))


class ForgetsBlock(BlockMoves):
    """A mutant without the proposal's ratio: right only where q is uniform."""

    def log_accept(self, old: Draws, new: Draws, start_N: Tensor) -> Tensor:
        right = super().log_accept(old, new, start_N)
        return right + self._of_block(new, start_N) - self._of_block(old, start_N)


class AsIfToTheEnd(BlockMoves):
    """A mutant with the ratio of suffix moves: what follows the block is not fresh."""

    def log_accept(self, old: Draws, new: Draws, start_N: Tensor) -> Tensor:
        weight = self.moves.log_weight
        return weight(new) - weight(old)


def gap(matrix: BlockMatrix) -> float:
    law = matrix.law()
    return float((law @ matrix.kernel() - law).abs().max())


@pytest.mark.parametrize("block", [1, 2])
def test_they_leave_the_target(world, block):
    matrix = BlockMatrix(world, block)
    assert gap(matrix) < 1e-14
    assert float(matrix.kernel().min()) >= 0
    flow = matrix.law()[:, None] * matrix.kernel()
    torch.testing.assert_close(flow, flow.T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("mutant", [ForgetsBlock, AsIfToTheEnd])
def test_mutants_do_not(world, mutant):
    assert gap(BlockMatrix(world, 1, mutant)) > 1e-3


def test_hard_evidence_is_never_left(table):
    matrix = BlockMatrix((po.Target(table, po.Constraint(has_c), table.prompts, 3), table), 1)
    assert gap(matrix) < 1e-14
    inside = torch.tensor([3 in y for y in matrix.states.completion_ids])
    assert float(matrix.kernel()[inside][:, ~inside].max()) == 0


def p_values(world, block: int, kind: type[BlockMoves] = BlockMoves) -> list[float]:
    """Of one step of the code from every state, against the rows of its matrix.

    The place is drawn once per step for all, so each of `EACH` steps moves every state once.
    """
    matrix = BlockMatrix(world, block, kind)
    draw = generator(3)
    moves = [matrix.block_moves.step(matrix.states, draw)[0] for _ in range(EACH)]
    counts = [matrix.index(moved.completions) for moved in moves]
    moved = moves[-1]
    torch.testing.assert_close(
        moved.completions.token_log_prob_NL,
        matrix.moves.proposal.token_log_prob(moved.completions).detach(),
    )
    index = torch.stack(counts, dim=1)
    return [
        chi_squared(index[at], law_S)
        for at, law_S in enumerate(matrix.kernel())
        if float(law_S.max()) < 1 - 1e-12
    ]


def test_a_step_does_what_the_matrix_says(world):
    found = p_values(world, 1)
    assert min(found) > FALSE_ALARM / len(found)


def test_short_texts_stay(world):
    target, proposal = world
    moves = SuffixMoves(target, proposal)
    states = moves.start(50, generator(1))
    moved, accept_N = BlockMoves(moves, 3).step(states, generator(2))
    assert not bool(accept_N.any())
    assert moved.completion_ids == states.completion_ids


def test_mh_takes_them_in_turn_with_suffixes(world, table):
    """The chain's law is the target's; a text of two blocks costs a pass more a move."""
    target, proposal = world
    matrix = BlockMatrix(world, 1)
    num = 4000
    drawn = po.sample(
        target, "mh", num, proposal=proposal, seed=4, chains=num, burn_in=30, thin=2, block=1
    )
    of_x = drawn.completions.select(drawn.completions.prompt_index_N == 0)
    assert chi_squared(matrix.index(of_x), matrix.law()) > FALSE_ALARM
    without = po.sample(target, "mh", 16, proposal=proposal, seed=4, chains=16, burn_in=30, thin=2)
    inside = po.sample(
        target, "mh", 16, proposal=proposal, seed=4, chains=16, burn_in=30, thin=2, block=1
    )
    assert inside.completion_ids != without.completion_ids


def test_on_a_real_model(gpt2):
    """Kept tokens stay, the block moves, and the log-probs are the model's own."""
    target = po.Target(gpt2, po.Reward(reward, beta=0.5), ("a", "b c"), 6)
    moves = SuffixMoves(target, gpt2)
    states = moves.start(40, generator(5))
    moved, accept_N = BlockMoves(moves, 2).step(states, generator(6))
    assert 0 < int(accept_N.sum()) < 80
    assert moved.cost.lm_tokens > states.cost.lm_tokens
    torch.testing.assert_close(
        moved.log_proposal_N, gpt2.log_prob(moved.completions).detach(), rtol=0, atol=2e-5
    )
    changed = torch.tensor(
        [
            sum(a != b for a, b in zip(old, new, strict=True))
            for old, new in zip(states.completion_ids, moved.completion_ids, strict=True)
        ]
    )
    assert int(changed.max()) <= 2
    assert bool((changed[~accept_N] == 0).all())
