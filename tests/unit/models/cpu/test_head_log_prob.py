"""Log-probs without logits: the numbers and gradients of the plain way, and when it is taken."""

from __future__ import annotations

import pytest
import torch
from helpers import PROMPTS, generator, tiny_lm
from torch import nn

from posteriori.errors import ModelError
from posteriori.models.cpu import head_log_prob as module
from posteriori.models.cpu.head_log_prob import head_log_prob
from posteriori.models.cpu.skip_head import separable_head
from posteriori.models.cpu.weight_cache import WeightCache

N, T, D, V = 5, 3, 4, 7


def operands(dtype=torch.float64):
    hidden = torch.randn(N, T, D, dtype=dtype, generator=generator(1))
    weight = torch.randn(V, D, dtype=dtype, generator=generator(2))
    return hidden, weight, torch.randint(0, V, (N, T), generator=generator(3))


def fused(hidden, weight, token):
    return head_log_prob(hidden, weight, token, WeightCache())


def plain(hidden, weight, token):
    return (hidden @ weight.t()).log_softmax(-1).gather(-1, token[..., None])[..., 0]


@pytest.fixture(
    params=[(100, 100), (2, 3), (4, 2), (2, 100)], ids=["one tile", "2 x 3", "4 x 2", "2 x all"]
)
def tiles(request, monkeypatch):
    """Rows and vocabulary together or in tiles."""
    rows, block = request.param
    monkeypatch.setattr(module, "_FEW_ROWS" if block > V else "_ROWS", rows)
    monkeypatch.setattr(module, "_BLOCK", block)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("trained", [(True, False), (True, True), (False, True)])
def test_numbers_and_gradients_are_those_of_log_softmax(trained):
    hidden, weight, token = operands()
    inputs = [x.requires_grad_(on) for x, on in zip((hidden, weight), trained, strict=True)]
    slopes = torch.randn(N, T, dtype=torch.float64, generator=generator(4))
    values, gradients = [], []
    for way in (fused, plain):
        values.append(way(hidden, weight, token))
        wanted = [x for x in inputs if x.requires_grad]
        gradients.append(torch.autograd.grad((values[-1] * slopes).sum(), wanted))
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


def test_improbable_tokens_keep_their_log_prob():
    """Where exp(log p) is zero in float32, log p is still right."""
    hidden, weight = torch.tensor([[[1.0]]]), torch.tensor([[0.0], [-300.0]])
    got = fused(hidden, weight, torch.tensor([[1]]))
    assert float(got) == pytest.approx(-300.0, abs=1e-4)


@pytest.mark.usefixtures("tiles")
def test_logits_that_grow_from_block_to_block_do_not_overflow():
    """exp(1000) is not a float64; the sums are relative to the largest logit so far."""
    hidden = torch.ones(1, 2, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.linspace(-1000, 1000, V, dtype=torch.float64)[:, None]
    for each in (weight, weight.flip(0)):
        token = torch.tensor([[int(each.argmax()), 2]])
        mine, expected = (
            fused(hidden, each, token),
            plain(hidden, each, token),
        )
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
        slopes = [torch.autograd.grad(x.sum(), hidden)[0] for x in (mine, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_autocast_rounds_the_gradient_and_not_the_log_prob():
    hidden, weight, token = operands(torch.float32)
    hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = fused(hidden, weight, token)
    expected = plain(hidden, weight, token)
    torch.testing.assert_close(mine.float(), expected, rtol=1e-6, atol=1e-6)
    (got,) = torch.autograd.grad(mine.sum(), hidden)
    (exact,) = torch.autograd.grad(expected.sum(), hidden)
    torch.testing.assert_close(got, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "bloom"])
def test_models_whose_logits_are_the_heads_output(architecture):
    model = tiny_lm(architecture).model
    assert separable_head(model, {}) is model.get_output_embeddings()


class TestFallsBack:
    def test_where_logits_are_capped(self):
        assert separable_head(tiny_lm("gemma2, window of 3").model, {}) is None

    def test_where_the_head_has_a_bias(self):
        assert separable_head(tiny_lm("phi").model, {}) is None

    def test_where_the_head_has_a_hook(self):
        model = tiny_lm("llama").model
        model.lm_head.register_forward_hook(lambda _m, _i, out: 2 * out)
        assert separable_head(model, {}) is None

    def test_where_the_head_is_not_a_plain_linear(self):
        class Doubled(nn.Linear):
            def forward(self, input):  # noqa: A002 - the name is nn.Linear's
                return 2 * super().forward(input)

        model = tiny_lm("llama").model
        model.lm_head.__class__ = Doubled
        assert separable_head(model, {}) is None

    def test_in_float64(self):
        assert separable_head(tiny_lm("llama").in_float64().model, {}) is None

    def test_where_autocast_would_round_the_logits(self):
        model = tiny_lm("llama").model
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert separable_head(model, {}) is None
        assert separable_head(model, {}) is not None

    def test_a_warp_is_scored_with_logits(self):
        lm = tiny_lm("llama").warped(temperature=2.0)
        drawn = lm.sample(PROMPTS, 4, 4, generator())
        torch.testing.assert_close(lm.log_prob(drawn), drawn.log_prob_N, rtol=0, atol=1e-4)


def test_a_model_that_changes_its_mind_is_refused():
    lm = tiny_lm("gemma2, window of 3")
    lm.model.config.final_logit_softcapping = None
    drawn = lm.sample(PROMPTS, 2, 4, generator())
    lm.log_prob(drawn)
    lm.model.config.final_logit_softcapping = 0.5
    with pytest.raises(ModelError, match="changes what its output head returns"):
        lm.log_prob(drawn)
    assert "forward" not in vars(lm.model.lm_head)
