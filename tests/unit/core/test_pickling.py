"""What a user holds can be sent to another process: pickled, and the same afterwards."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers import tiny_lm

import posteriori as po
from posteriori import errors
from posteriori.core.settings.training import LoraSettings
from posteriori.evidence.text import constraints


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


def lora_policy():
    policy = tiny_lm("llama").as_policy("lora", LoraSettings(rank=2), 0)
    for name, tensor in policy.trained_state().items():
        if "lora_B" in name:
            tensor.fill_(0.3)
    return policy


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_lora_policy_and_its_prior_stay_themselves(again):
    policy = lora_policy()
    batch = policy.completions(["a b"], [[1, 2, 0]], 3)
    other = again(policy)
    assert torch.equal(other.log_prob(batch), policy.log_prob(batch))
    more = other.as_policy
    with pytest.raises(errors.ModelError, match="plain weights below it"):
        more("lora", LoraSettings(rank=2), 1)


@pytest.mark.parametrize(
    "evidence",
    [
        po.Reward(length, beta=1.0),
        po.Reward(length, beta=1.0, pool="process"),
        po.Reward(length, beta=1.0, cache=True),
        constraints.regex("a+ b"),
        constraints.regex("a", match="search"),
        constraints.words(any_of=["a"], none_of=["b"]),
        constraints.words(all_of=["a", "b"]),
    ],
    ids=["reward", "in a pool", "cached", "regex", "search", "any word", "all words"],
)
def test_evidence_says_the_same(evidence):
    again = pickle.loads(pickle.dumps(evidence))
    batch = tiny_lm("gpt2").completions(["a b"], [[1, 2, 0], [1, 0], [2, 3, 4]], 3)
    assert again.score(batch, {}).log_evidence.equal(evidence.score(batch, {}).log_evidence)


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("what", where="where", hint="hint"),
        errors.StoppedError("what", signal_number=15),
        errors.SamplingStopped("what", hint="hint", draws=[1, 2]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_says_the_same(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
