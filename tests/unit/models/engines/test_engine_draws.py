"""What an engine draws: q's tokens and log-probs, and the model's own scores beside them."""

from __future__ import annotations

import pickle
import sys

import pytest
import torch
from engine_fakes import Fake
from helpers import tiny_lm

import posteriori as po
from posteriori.core.hooks import DrawsElsewhere, Served
from posteriori.errors import ConfigError, EngineError, ModelError
from posteriori.models.engines.backend import Backend, Drawn


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def engine(case_1):
    return po.Engine(case_1.prior(), Fake(torch.bfloat16, tolerance=0.25))


def test_it_draws_by_the_engine_and_scores_by_the_model(engine, case_1):
    drawn = engine.sample(case_1.prompts, 20, 4, seeded())
    fake = engine._given
    of_engine = fake.lm.log_prob(drawn).detach()
    of_model = engine.lm.log_prob(drawn).detach()
    torch.testing.assert_close(drawn.log_prob_N, of_engine)
    torch.testing.assert_close(engine.log_prob(drawn).detach(), of_model)
    torch.testing.assert_close(engine.served.log_prob(drawn), of_engine)
    assert float((of_engine - of_model).abs().max()) > 1e-3, "bfloat16 rounds"
    assert [drawn.prompts.count(each) for each in case_1.prompts] == [20] * len(case_1.prompts)
    drawn.check_outcomes(4)


def test_the_same_generator_gives_the_same_draws(engine, case_1):
    one, again, other = (engine.sample(case_1.prompts, 8, 4, seeded(s)) for s in (1, 1, 2))
    assert one.completion_ids == again.completion_ids != other.completion_ids


def test_a_suffix_is_drawn_behind_its_prefix(engine, case_1):
    drawn = engine.served.sample(case_1.prompts, 30, 4, seeded())
    start_N = torch.arange(len(drawn)) % drawn.lengths_N
    again = engine.served.resample_suffix(drawn, start_N, seeded(5))
    for old, new, start in zip(
        drawn.completion_ids, again.completion_ids, start_N.tolist(), strict=True
    ):
        assert old[:start] == new[:start]
    assert drawn.completion_ids != again.completion_ids
    again.check_outcomes(4)
    assert again.prompts == drawn.prompts
    torch.testing.assert_close(again.log_prob_N, engine.served.log_prob(again))
    # All of completions that have not ended, and are as long as may be.
    full = drawn.select(drawn.truncated_N)
    whole = engine.resample_suffix(full, full.lengths_N, seeded())
    assert whole.completion_ids == full.completion_ids


def test_what_engines_are(engine):
    assert isinstance(engine, po.LanguageModel)
    assert isinstance(engine, DrawsElsewhere)
    assert isinstance(engine.served, Served)
    assert isinstance(engine._given, Backend)


def test_it_starts_again_from_its_settings_in_another_process():
    engine = po.Engine(po.load("tiny"), "http", url="http://localhost:1/v1", tolerance=0.1)
    copy = pickle.loads(pickle.dumps(engine))
    assert copy.config == engine.config
    assert copy.lm.vocab_size == engine.lm.vocab_size
    assert copy._session is not engine._session


def test_close_lets_go_and_it_starts_again(engine, case_1):
    with engine:
        engine.sample(case_1.prompts, 2, 4, seeded())
    assert engine._given.closed
    assert len(engine.sample(case_1.prompts, 2, 4, seeded())) == 2 * len(case_1.prompts)


def test_what_is_refused_before_anything_starts(case_1):
    prior = case_1.prior()
    with pytest.raises(ModelError, match="warped"):
        po.Engine(prior.warped(temperature=0.5), Fake())
    with pytest.raises(ConfigError, match="needs the server's url"):
        po.Engine(prior, "http")
    with pytest.raises(ConfigError, match="'dtype' does nothing with the backend 'http'"):
        po.Engine(prior, "http", url="http://localhost:1/v1", dtype="bfloat16")
    with pytest.raises(ConfigError, match="'url' does nothing with the backend 'vllm'"):
        po.Engine(prior, "vllm", url="http://localhost:1/v1")
    with pytest.raises(ConfigError, match="backend"):
        po.Engine(prior, "vlm")
    with pytest.raises(ConfigError, match="the prior is an engine"):
        po.Target(po.Engine(prior, Fake()), [], case_1.prompts, 4)
    with pytest.raises(EngineError, match="temperature 1"):
        po.Engine(prior, Fake()).token_power(2.0)


@pytest.mark.parametrize(
    ("drawn", "what"),
    [
        (Drawn([1, 2], [-1.0, -1.0], []), "stops after 2 of 4 tokens"),
        (Drawn([1, 2, 3, 4, 0], [-1.0] * 5, []), "has 5 tokens"),
        (Drawn([], [], []), "has 0 tokens"),
        (Drawn([1, 0], [-1.0], []), "2 tokens and 1 log-probs"),
        (Drawn([1, 0], [-1.0, float("nan")], []), "no finite number"),
        (Drawn([0, 0], [-1.0, -1.0], []), "after an end of sequence"),
        (Drawn([77, 0], [-1.0, -1.0], []), "beyond the model's"),
    ],
)
def test_what_is_no_outcome_is_refused(drawn, what):
    class Wrong(Fake):
        def draw(self, requests):
            return [drawn for request in requests for _ in range(request.num_samples)]

    with pytest.raises(EngineError, match=what):
        po.Engine(tiny_lm(), Wrong()).sample(["a"], 3, 4, seeded())


def test_a_prompt_that_does_not_fit_is_refused_by_the_model(engine):
    with pytest.raises(po.PosterioriError, match="context"):
        engine.sample(["a " * 600], 1, 4, seeded())


def test_an_engine_that_is_not_installed_says_so(case_1, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match="vLLM is not installed"):
        po.Engine(case_1.prior()).sample(case_1.prompts, 1, 4, seeded())
