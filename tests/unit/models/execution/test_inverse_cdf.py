"""Drawing by inversion: a token owns as much of [0, 1) as its probability."""

from __future__ import annotations

import math

import pytest
import torch

from posteriori.errors import NonFiniteError
from posteriori.models.execution.inverse_cdf import draw_tokens

VOCABULARIES = [1, 2, 6, 512, 1024, 1025, 1536, 5000, 50257]
"""One level up to 1,024, two above; whole blocks of 512 and ragged ones."""
ALMOST_ONE = 1.0 - 2.0**-53
LAST = torch.tensor([ALMOST_ONE], dtype=torch.float64)


def log_probs(vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(vocab, generator=generator, dtype=torch.float64) * scale).log_softmax(-1)


def draw(log_prob_V: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    parts = [draw_tokens(log_prob_V.expand(len(u), -1), u)[0] for u in uniform.split(500)]
    return torch.cat(parts)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_a_token_owns_exactly_its_interval(vocab):
    """Just inside both ends of a token's interval of the running sum, that token is drawn."""
    log_prob_V = log_probs(vocab)
    high_V = log_prob_V.exp().cumsum(-1)
    low_V = torch.cat([torch.zeros(1, dtype=torch.float64), high_V[:-1]])
    inside = 1e-10
    wide = ((high_V - low_V) > 4 * inside).nonzero()[:, 0]
    chosen = wide[:: max(1, len(wide) // 300)]
    assert torch.equal(draw(log_prob_V, low_V[chosen] + inside), chosen)
    assert torch.equal(draw(log_prob_V, high_V[chosen] - inside), chosen)


@pytest.mark.parametrize("vocab", [2, 6, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_even_grid_of_numbers_draws_each_token_as_often_as_it_should(vocab, dtype):
    """A grid of M midpoints meets an interval of length p in M p points, give or take one."""
    log_prob_V = log_probs(vocab, scale=1.0).to(dtype)
    points = 10_000
    grid = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    count_V = torch.bincount(draw(log_prob_V, grid), minlength=vocab)
    rounding = 1e-6 * points if dtype == torch.float32 else 0.0
    assert float((count_V - points * log_prob_V.double().exp()).abs().max()) <= 1.0 + rounding


@pytest.mark.parametrize("vocab", [6, 1024, 1025, 5000])
@pytest.mark.parametrize("support", ["middle", "first", "last", "one a block"])
def test_tokens_of_probability_zero_are_never_drawn(vocab, support):
    allowed = {
        "middle": [vocab // 2, vocab // 2 + 1],
        "first": [0],
        "last": [vocab - 1],
        "one a block": list(range(3, vocab, 512)),
    }[support]
    log_prob_V = torch.full((vocab,), -math.inf)
    log_prob_V[allowed] = -math.log(len(allowed))
    edges = torch.tensor(
        [0.0, 2.0**-60, 0.25, 0.5, 0.75, 1 - 1e-12, ALMOST_ONE], dtype=torch.float64
    )
    for uniform in (edges, torch.rand(500, generator=torch.Generator().manual_seed(0)).double()):
        assert set(draw(log_prob_V, uniform).tolist()) <= set(allowed)
    assert int(draw(log_prob_V, torch.zeros(1).double())) == allowed[0]
    assert int(draw(log_prob_V, LAST)) == allowed[-1]


@pytest.mark.parametrize("vocab", [6, 5000])
def test_the_largest_number_below_one_draws_the_last_token_that_can_be(vocab):
    log_prob_V = log_probs(vocab)
    log_prob_V[-2:] = -math.inf
    log_prob_V = log_prob_V.log_softmax(-1)
    for dtype in (torch.float32, torch.float64):
        assert int(draw(log_prob_V.to(dtype), LAST)) == vocab - 3


@pytest.mark.parametrize("vocab", [6, 900, 5000])
def test_no_number_falls_off_the_end_whatever_the_rows_mass(vocab):
    """Rows that are not normalised, at the largest number below one."""
    logits_RV = torch.randn(300, vocab, generator=torch.Generator().manual_seed(3)) * 2
    logits_RV[:, -1] = -math.inf
    token_R, log_prob_R = draw_tokens(logits_RV, LAST.expand(300))
    assert token_R.tolist() == [vocab - 2] * 300
    assert bool(log_prob_R.isfinite().all())


def test_float32_masses_are_added_up_in_float64():
    """Both ends of every interval to 1e-9, where a float32 running sum is off by 1e-7."""
    logits_V = torch.randn(1000, generator=torch.Generator().manual_seed(4))
    mass_V = (logits_V - logits_V.max()).exp().double()
    high_V = mass_V.cumsum(-1) / mass_V.sum()
    low_V = torch.cat([torch.zeros(1, dtype=torch.float64), high_V[:-1]])
    assert torch.equal(draw(logits_V, low_V + 1e-9), torch.arange(1000))
    assert torch.equal(draw(logits_V, high_V - 1e-9), torch.arange(1000))


def test_rows_do_not_see_each_other():
    log_prob_RV = torch.stack([log_probs(2000, seed) for seed in range(8)])
    uniform_R = torch.rand(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together, _ = draw_tokens(log_prob_RV, uniform_R)
    alone = [int(draw_tokens(log_prob_RV[[i]], uniform_R[[i]])[0]) for i in range(8)]
    assert together.tolist() == alone


@pytest.mark.parametrize("vocab", [6, 2000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_the_log_prob_of_a_draw_is_its_log_softmax(vocab, dtype, tolerance):
    generator = torch.Generator().manual_seed(2)
    logits_RV = (torch.randn(50, vocab, generator=generator) * 4 + 30).to(dtype)
    uniform_R = torch.rand(50, generator=generator, dtype=torch.float64)
    token_R, log_prob_R = draw_tokens(logits_RV, uniform_R)
    expected_R = logits_RV.double().log_softmax(-1).gather(1, token_R[:, None])[:, 0]
    torch.testing.assert_close(log_prob_R, expected_R, rtol=0, atol=tolerance)


@pytest.mark.parametrize("vocab", [6, 2000])
def test_memory_that_is_written_over_changes_no_draw(vocab):
    log_prob_RV = torch.stack([log_probs(vocab, seed) for seed in range(8)])
    uniform_R = torch.rand(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    memory_RV = torch.full_like(log_prob_RV, math.nan)
    expected = draw_tokens(log_prob_RV.clone(), uniform_R)
    for mine, other in zip(draw_tokens(log_prob_RV, uniform_R, memory_RV), expected, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("vocab", [6, 2000])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_row_that_is_no_distribution_is_refused(vocab, value):
    log_prob_RV = torch.stack([log_probs(vocab), torch.full((vocab,), value).double()])
    with pytest.raises(NonFiniteError, match="nothing can be drawn"):
        draw_tokens(log_prob_RV, torch.tensor([0.5, 0.5]).double())
