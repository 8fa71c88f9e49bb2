"""Draws that do not follow their log-probs are found, whatever those say.

Freedman's bound at 1e-9 holds at all times at once: 400 honest streams give no alarm with
probability 1 - 4e-7.
"""

from __future__ import annotations

import pytest
import torch

from posteriori.models.engines.backend import Drawn
from posteriori.models.engines.frequencies import Frequencies

VOCABULARY = 50


def stream(tokens: int, seed: int, temperature: float = 1.0, top: int = 5, sharp: float = 1.5):
    """Draws at a temperature, with the log-probs of temperature 1."""
    random = torch.Generator().manual_seed(seed)
    logits_TV = sharp * torch.randn(tokens, VOCABULARY, generator=random, dtype=torch.float64)
    log_q_TV = logits_TV.log_softmax(-1)
    drawn_T = torch.multinomial((logits_TV / temperature).softmax(-1), 1, generator=random)[:, 0]
    best = log_q_TV.topk(top, dim=-1)
    tops = [
        dict(zip(i, v, strict=True))
        for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return Drawn(drawn_T.tolist(), log_q_TV.gather(1, drawn_T[:, None])[:, 0].tolist(), tops)


@pytest.mark.parametrize("sharp", [0.3, 1.5, 6.0])
def test_honest_draws_give_no_alarm(sharp):
    for seed in range(130):
        seen = Frequencies()
        for part in range(5):
            seen.add([stream(40, 1000 * seed + part, sharp=sharp)])
            assert seen.fault() is None


@pytest.mark.parametrize(
    ("temperature", "tokens", "side"), [(0.7, 800, "below"), (1.3, 6000, "above")]
)
def test_another_temperature_is_found(temperature, tokens, side):
    for seed in range(10):
        seen = Frequencies()
        seen.add([stream(tokens, seed, temperature)])
        assert f"temperature {side} 1" in seen.fault()


def test_one_improbable_token_is_no_alarm():
    """By a normal law it would be a hundred standard errors."""
    seen = Frequencies()
    likely, unlikely = -1e-4, -9.2
    seen.add([Drawn([1], [unlikely], [{0: likely}])])
    assert seen.fault() is None


def test_what_came_without_the_most_probable_tokens_says_nothing():
    seen = Frequencies()
    seen.add([Drawn([3, 4], [-1.0, -2.0], [])])
    assert seen.tokens == 0
    assert seen.fault() is None
