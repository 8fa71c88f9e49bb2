"""What is no prompt, and what are no completions, is refused in a sentence by every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import WORDS

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError, OutcomeError, PromptError

TABLE = po.TabularLM.random(list(WORDS), 3, ["a", "b"], seed=0)
NO_PROMPTS = ([1, 2], 3, None, {"role": "user", "content": "a"}, b"a", ["a", "b"], 1.5)


@pytest.fixture(scope="module")
def tiny() -> po.CausalLM:
    return po.load("tiny")


@pytest.mark.parametrize("prompt", NO_PROMPTS, ids=str)
def test_it_is_refused_with_its_type(tiny, prompt):
    for call in (
        lambda: tiny.encode(prompt),
        lambda: tiny.sample([prompt], 1, 2),
        lambda: tiny.completions(prompts=[prompt], completion_ids=[[5]]),
        lambda: tiny.generate(["a", prompt], max_new_tokens=2),
    ):
        with pytest.raises(PromptError, match=type(prompt).__name__):
            call()


def test_one_string_is_no_list_of_prompts(tiny):
    """Its characters would be prompts, and nobody would see it."""
    for lm in (tiny, TABLE):
        with pytest.raises(PromptError, match="give a list of prompts"):
            lm.sample("ab", 2, 3)
        with pytest.raises(PromptError, match="give a list of prompts"):
            lm.completions(prompts="ab", completion_ids=[[1], [2]])


@pytest.mark.parametrize("number", [0, -1, 1.5, "2"])
def test_less_than_one_draw_is_refused(tiny, number):
    for lm in (tiny, TABLE):
        with pytest.raises(PromptError, match="at least 1"):
            lm.sample(["a"], number, 2)


@pytest.mark.parametrize("ids", ["abc", [["x"]], [1.5], 3, None], ids=str)
def test_completions_that_are_no_token_ids_are_refused(tiny, ids):
    with pytest.raises(OutcomeError, match=type(ids).__name__):
        tiny.completions(prompts=["a"], completion_ids=[ids])


def test_token_ids_may_be_arrays_and_tensors(tiny):
    wanted = tiny.completions(prompts=["a"], completion_ids=[[5, 6]]).completion_ids
    for ids in (np.array([5, 6]), torch.tensor([5, 6]), (5, 6), [np.int64(5), np.int64(6)]):
        assert tiny.completions(prompts=["a"], completion_ids=[ids]).completion_ids == wanted


@pytest.mark.parametrize("value", ["abc", ["abc"], None, 3], ids=str)
def test_texts_are_no_completions(tiny, value):
    reward = po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0)
    target = po.Target(TABLE, reward, ["a"], 3)
    for call in (tiny.log_prob, TABLE.log_prob, target.log_density, target.score):
        with pytest.raises(OutcomeError, match=r"lm\.completions"):
            call(value)
    draws = po.sample(target, "importance", 4)
    with pytest.raises(OutcomeError, match=r"its \.completions"):
        target.log_density(draws)


@pytest.mark.parametrize("number", [0, -3, 2.5, "3"])
def test_fewer_than_one_draw_is_not_resampled(number):
    reward = po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0)
    draws = po.sample(po.Target(TABLE, reward, ["a"], 3), "importance", 4)
    with pytest.raises(ConfigError, match="at least 1"):
        draws.resample(number)


@pytest.mark.parametrize("given", [3, None, ("smc",), po.SMCConfig], ids=str)
def test_what_is_no_sampler_or_objective_is_refused(given):
    reward = po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0)
    target = po.Target(TABLE, reward, ["a"], 3)
    with pytest.raises(ConfigError, match="is no sampler"):
        po.sample(target, given, 4)
    if given is not None:
        with pytest.raises(ConfigError, match="is no objective"):
            po.fit(target, given, steps=1)


@pytest.mark.parametrize("kind", [po.Constraint, po.Verifier, po.Likelihood])
def test_evidence_needs_a_function(kind):
    for given in (None, "fn", 3):
        with pytest.raises(EvidenceError, match="is no function"):
            kind(given)
