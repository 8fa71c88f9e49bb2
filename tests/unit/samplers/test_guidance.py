"""The guided proposal q = p (1 - g + g psi / E_p[psi]) against the same written down in float64."""

import math

import pytest
import torch
from torch import Tensor

from posteriori.samplers.smc.guidance import Guided, NextTokenTwist

GUIDANCE = [0.3, 0.9, 1.0]


def logits(vocab: int, rows: int = 3) -> Tensor:
    """Some tokens forbidden, as a warp forbids them."""
    noise = torch.Generator().manual_seed(vocab)
    logits_RV = 3 * torch.randn(rows, vocab, generator=noise)
    return logits_RV.masked_fill(torch.rand(rows, vocab, generator=noise) < 0.1, -math.inf)


def next_token_twist(vocab: int, rank: int, rows: int = 3) -> NextTokenTwist:
    noise = torch.Generator().manual_seed(rank)
    parts = [torch.randn(rows, generator=noise), 2 * torch.randn(vocab, generator=noise)]
    if rank:
        parts += [torch.randn(n, rank, generator=noise) for n in (rows, vocab)]
    return NextTokenTwist(*parts)


def log_psi_of(ahead: NextTokenTwist) -> Tensor:
    log_psi_RV = (ahead.row_R[:, None] + ahead.token_V).double()
    if ahead.row_RK is not None and ahead.token_VK is not None:
        log_psi_RV = log_psi_RV + ahead.row_RK.double() @ ahead.token_VK.double().t()
    return log_psi_RV


def by_definition(logits_RV: Tensor, log_psi_RV: Tensor, guidance: float) -> Tensor:
    p_RV = logits_RV.double().softmax(-1)
    psi_RV = log_psi_RV.exp()
    return p_RV * (1 - guidance + guidance * psi_RV / (p_RV * psi_RV).sum(-1, keepdim=True))


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("vocab", [3, 512, 1300])
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_log_probs_are_those_of_the_definition(guidance, vocab, rank):
    logits_RV, ahead = logits(vocab), next_token_twist(vocab, rank)
    q = Guided(logits_RV, ahead, guidance)
    row_L = torch.arange(3).repeat_interleave(vocab)
    token_L = torch.arange(vocab).repeat(3)
    log_q_L, log_p_L = q.log_prob(row_L, token_L)
    wanted_RV = by_definition(logits_RV, log_psi_of(ahead), guidance)
    torch.testing.assert_close(log_q_L.exp().view(3, -1), wanted_RV, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(
        log_p_L.view(3, -1), logits_RV.double().log_softmax(-1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        ahead.of(row_L, token_L).view(3, -1), log_psi_of(ahead), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("vocab", [3, 1300])
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_a_draw_inverts_the_cumulative_sum(guidance, vocab, rank):
    """So P(token) is the width of its cell; checked at the middle of every cell."""
    logits_RV, ahead = logits(vocab, rows=1), next_token_twist(vocab, rank, rows=1)
    q_V = by_definition(logits_RV, log_psi_of(ahead), guidance)[0]
    wide = (q_V > 1e-5).nonzero()[:, 0]
    middle_L = (q_V.cumsum(0) - q_V / 2)[wide]
    all_rows = torch.zeros_like(wide)
    q = Guided(logits_RV[all_rows], ahead.select(all_rows), guidance)
    assert torch.equal(q.draw(middle_L), wide)


def test_forbidden_tokens_are_never_drawn():
    logits_RV, ahead = logits(1300), next_token_twist(1300, 4)
    q = Guided(logits_RV, ahead, 1.0)
    for uniform in (0.0, 1e-18, 0.5, 1 - 2**-53):
        token_R = q.draw(torch.full((3,), uniform, dtype=torch.float64))
        assert bool(logits_RV[torch.arange(3), token_R].isfinite().all())


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_a_twist_that_wants_only_what_the_prior_forbids_guides_nothing(guidance):
    """psi of the others is below e^-200 of the forbidden token's."""
    logits_RV = torch.tensor([[-math.inf, 0.0, 1.0]])
    ahead = NextTokenTwist(torch.zeros(1), torch.tensor([200.0, 0.0, 0.0]))
    q = Guided(logits_RV, ahead, guidance)
    log_q_L, log_p_L = q.log_prob(torch.tensor([0, 0]), torch.tensor([1, 2]))
    assert torch.equal(log_q_L, log_p_L)
    assert q.draw(torch.tensor([0.999], dtype=torch.float64)).tolist() == [2]
