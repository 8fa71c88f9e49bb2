"""Objects that users have: taken where a model is, or refused in one line that says what to do."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import AutoModelForCausalLM

import posteriori as po
from posteriori.errors import ConfigError, ModelError, PosterioriError, UnknownNameError
from posteriori.models.load import BUNDLED


def warmth(completions, **kwargs):
    return [float("good" in text) for text in completions]


@pytest.fixture(scope="module")
def prior():
    return po.load("tiny")


@pytest.fixture(scope="module")
def target(prior):
    return po.Target(prior, po.Reward(warmth, beta=1.0), ["You are"], 4)


@pytest.fixture(scope="module")
def hf_model():
    return AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"], dtype=torch.float32)


class Trainer:
    def __init__(self, model, tokenizer):
        self.model, self.processing_class = model, tokenizer


def test_a_policy_is_a_model_a_path_a_trainer_or_a_fit(target, prior, hf_model):
    wanted = po.evaluate(target, prior, num_samples=8)["mean_reward"]
    fit = po.fit(target, "rloo", steps=1, num_samples=2, learning_rate=1e-9)
    for given in ("tiny", BUNDLED["tiny"], hf_model, Trainer(hf_model, prior.tokenizer), fit):
        report = po.evaluate(target, given, num_samples=8)
        assert report["mean_reward"].value == pytest.approx(wanted.value, abs=0.5)
        assert abs(report["kl_to_prior"].value) < 1e-3
    draws = po.sample(target, "importance", num_samples=4, proposal=hf_model)
    assert len(draws) == 4


def test_a_prior_by_name_or_as_a_transformers_model(prior, hf_model):
    for given in ("tiny", hf_model):
        target = po.Target(given, po.Reward(warmth, beta=1.0), ["You are"], 4)
        assert target.prior.vocab_size == prior.vocab_size


@pytest.mark.moves_rng
def test_a_peft_model_is_judged_with_its_adapter(target, hf_model):
    from peft import LoraConfig, get_peft_model

    plain = AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"], dtype=torch.float32)
    adapted = get_peft_model(plain, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    report = po.evaluate(target, adapted, num_samples=64)
    assert report["kl_to_prior"].value > 1e-3


class Engine:
    def generate(self, prompts):
        return prompts


NO_MODELS = {
    "an engine": (Engine(), "generates and does not say how probable a text is"),
    "a number": (3, "a int, which is no language model"),
    "a class": (Engine, "the class Engine itself"),
    "a layer": (torch.nn.Linear(2, 2), "a Linear, which is no causal language model"),
    "None": (None, "a NoneType, which is no language model"),
}


@pytest.mark.parametrize("case", NO_MODELS)
def test_what_is_no_model_is_refused_in_one_line(target, case):
    given, message = NO_MODELS[case]
    for act in (lambda: po.evaluate(target, given), lambda: po.Target(given, [], ["a"], 3)):
        with pytest.raises(ModelError, match=message) as caught:
            act()
        assert caught.value.hint


NO_EVIDENCE = {
    "a function": (
        warmth,
        r"bare function 'warmth'; write posteriori\.Reward\(warmth, beta=0\.1\)",
    ),
    "among others": ([po.Reward(warmth, beta=1.0), warmth], "bare function 'warmth'"),
    "a lambda": (lambda **_: [0.0], r"posteriori\.Reward"),
    "a path": ("org/reward-model", r"posteriori\.Reward\(path, beta=0\.1\)"),
    "a class": (po.Reward, "the class Reward itself"),
    "None": (None, "a NoneType, which is none"),
}


@pytest.mark.parametrize("case", NO_EVIDENCE)
def test_what_is_no_evidence_is_refused_in_one_line(prior, case):
    given, message = NO_EVIDENCE[case]
    with pytest.raises(ConfigError, match=message):
        po.Target(prior, given, ["a"], 3)


SETTINGS = {
    "num_generations": (8, "it is num_samples here"),
    "beta": (0.1, "Reward(fn, beta=...)"),
    "max_steps": (3, "it is steps here"),
    "max_completion_length": (3, "Target(..., max_new_tokens=...)"),
    "lr": (1e-4, "it is learning_rate here"),
    "peft_config": (None, 'policy="lora"'),
    "per_device_train_batch_size": (4, "prompts_per_step"),
    "num_sample": (4, "did you mean 'num_samples'?"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_trl_is_told_by_its_name_here(target, name):
    value, hint = SETTINGS[name]
    with pytest.raises(ConfigError) as caught:
        po.fit(target, "rloo", steps=1, **{name: value})
    assert f"unknown key '{name}'" in str(caught.value)
    assert hint in str(caught.value)


def test_every_name_told_is_one_there_is():
    """The settings that the table of TRL's names points to exist."""
    import re

    from posteriori.core.settings.training import FitConfig
    from posteriori.data.trl_names import _HERE

    told = {m.group(1) for hint in _HERE.values() if (m := re.match(r"it is (\w+) here", hint))}
    assert told - {"held_out", "the", "rank"} <= set(FitConfig.model_fields)


def test_a_lora_config_is_a_policy(target):
    from peft import LoraConfig

    fit = po.fit(
        target,
        "rloo",
        steps=1,
        num_samples=2,
        learning_rate=1e-3,
        policy=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    assert "lora" in " ".join(fit.policy.trained_state())
    with pytest.raises(ConfigError, match=r"lora_dropout=0\.1, which is not for a policy here"):
        po.fit(target, "rloo", steps=1, policy=LoraConfig(r=4, lora_dropout=0.1))
    with pytest.raises(ConfigError, match='write policy="full" or "lora"'):
        po.fit(target, "rloo", steps=1, policy=3)


def test_a_mistyped_model_fails_fast():
    for name, hint in (("tniy", "did you mean 'tiny'"), ("no/such-model", "")):
        start = time.perf_counter()
        with pytest.raises(ModelError, match="there is no model") as caught:
            po.load(name)
        assert hint in str(caught.value)
        assert time.perf_counter() - start < 8  # one question of 5 seconds, and not 46


def test_a_mistyped_figure_names_the_nearest(target, prior):
    report = po.evaluate(target, prior, num_samples=4)
    with pytest.raises(
        KeyError, match="the report has no 'kl_to_taget'; did you mean 'kl_to_target'"
    ):
        report["kl_to_taget"]
    with pytest.raises(UnknownNameError):
        report["reward"]
    assert report.get("reward") is None
    assert "reward" not in report
    assert issubclass(UnknownNameError, PosterioriError)
