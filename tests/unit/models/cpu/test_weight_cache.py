"""What is worked out from frozen weights is kept within a run, and never outlives its weights."""

from __future__ import annotations

import torch
from torch import nn

from posteriori.models.cpu.head_log_prob import head_log_prob
from posteriori.models.cpu.weight_cache import WeightCache


class _Counted:
    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.times = weight, 0

    def __call__(self) -> torch.Tensor:
        self.times += 1
        return self.weight.detach() * 2


def _frozen() -> nn.Parameter:
    return nn.Parameter(torch.arange(6.0).view(2, 3), requires_grad=False)


def test_it_is_made_once_for_each_thing_and_not_again_until_the_weights_change():
    weight, cache = _frozen(), WeightCache()
    double = _Counted(weight)
    with cache.open():
        first = cache.get(weight, "double", double)
        assert cache.get(weight, "double", double) is first
        cache.get(weight, "another", double)
        assert double.times == 2
        with torch.no_grad():
            weight.add_(1)
        assert torch.equal(cache.get(weight, "double", double), weight * 2)
    assert double.times == 3


def test_outside_and_of_trained_weights_nothing_is_kept():
    weight, cache = _frozen(), WeightCache()
    double = _Counted(weight)
    cache.get(weight, "double", double)
    cache.get(weight, "double", double)
    assert double.times == 2
    trained = _Counted(nn.Parameter(torch.ones(2)))
    computed = _Counted(torch.ones(2))
    with cache.open():
        for counted in (trained, trained, computed, computed):
            cache.get(counted.weight, "double", counted)
    assert trained.times == computed.times == 2


def test_a_frozen_head_that_is_written_to_gives_the_new_log_probs():
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(50, 8, generator=generator), requires_grad=False)
    # Enough rows for the head to be laid out for the product.
    hidden = torch.randn(4, 160, 8, generator=generator)
    token = torch.randint(50, (4, 160), generator=generator)
    cache = WeightCache()
    with cache.open():
        for scale in (1.0, -0.5):
            with torch.no_grad():
                weight.mul_(scale)
            found = head_log_prob(hidden, weight, token, cache)
            logits = hidden.double() @ weight.double().t()
            wanted = logits.log_softmax(-1).gather(-1, token[..., None])[..., 0]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
