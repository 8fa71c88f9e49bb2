"""Models, settings and rewards as users of transformers, PEFT and TRL have them."""

from __future__ import annotations

import peft
import pytest
import transformers
import trl
from acts import in_one_line, matches, prior, target, warmth

import posteriori as po
from posteriori.models.load import BUNDLED


def hf_model():
    return transformers.AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"])


def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(BUNDLED["tiny"])


def peft_model():
    model = peft.get_peft_model(hf_model(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.name_or_path = str(BUNDLED["tiny"])
    return model


MODELS = {
    "a name": lambda folder: "tiny",
    "a path": lambda folder: BUNDLED["tiny"],
    "a transformers model": lambda folder: hf_model(),
    "a PEFT model": lambda folder: peft_model(),
    "a pipeline": lambda folder: transformers.pipeline(
        "text-generation", model=hf_model(), tokenizer=tokenizer()
    ),
    "a folder that save_pretrained wrote": lambda folder: _saved(folder),
}


def _saved(folder):
    prior().save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.mark.moves_rng
@pytest.mark.parametrize("act", MODELS)
def test_a_model_is_a_policy(tmp_path, act):
    report = po.evaluate(target(), MODELS[act](tmp_path), num_samples=4)
    assert abs(report["kl_to_prior"].value) < 1e-4


WRONG_MODELS = {
    "a mistyped name": (lambda folder: po.load("tniy"), "tiny"),
    "a folder without a model": (lambda folder: po.load(folder), "config.json"),
    "a class": (lambda folder: po.evaluate(target(), transformers.GPT2LMHeadModel), "load it"),
    "a tokenizer": (lambda folder: po.evaluate(target(), tokenizer()), "posteriori.load"),
    "an encoder": (
        lambda folder: po.evaluate(
            target(), transformers.BertModel(transformers.BertConfig(num_hidden_layers=1))
        ),
        "AutoModelForCausalLM",
    ),
    "None": (lambda folder: po.evaluate(target(), None), "posteriori.load"),
    "the arguments swapped": (lambda folder: po.evaluate(prior(), target()), "target"),
    "the prior where the target is": (lambda folder: po.fit(prior(), "rloo", steps=1), "Target"),
    "the prior to be sampled": (lambda folder: po.sample("tiny", "smc"), "Target"),
    "a frontier of a model": (lambda folder: po.frontier(prior()), "Target"),
    "a model to be loaded": (lambda folder: po.load(hf_model()), "CausalLM"),
}


@pytest.mark.moves_rng
@pytest.mark.parametrize("act", WRONG_MODELS)
def test_a_mistake_with_models_is_said(tmp_path, act):
    do, told = WRONG_MODELS[act]
    in_one_line(do, tmp_path, told)


def fit(**settings):
    return po.fit(target(), "rloo", **{"steps": 1, "num_samples": 2, **settings})


SETTINGS = {
    "TRL's number of draws": (lambda: fit(num_generations=8), "num_samples"),
    "TRL's beta": (lambda: fit(beta=0.1), "Reward(fn, beta=...)"),
    "TRL's config": (lambda: po.fit(target(), trl.GRPOConfig("x", use_cpu=True)), "steps"),
    "TRL's keywords of the trainer": (
        lambda: po.fit(target(), reward_funcs=[warmth], steps=1),
        "Reward([f, g]",
    ),
    "TRL's keywords of the target": (
        lambda: po.Target(prior(), po.Reward(warmth, beta=1.0), ["a"], max_completion_length=4),
        "max_new_tokens",
    ),
    "a model for the target": (
        lambda: po.Target(
            model="tiny", reward_funcs=warmth, train_dataset=["a"], max_completion_length=4
        ),
        "prior",
    ),
    "num_samples of another function": (
        lambda: po.evaluate(target(), "tiny", num_generations=8),
        "num_samples",
    ),
    "draws of sample": (lambda: po.sample(target(), "importance", n=8), "num_samples"),
    "temperature of sample": (lambda: po.sample(target(), temperature=0.7), "posteriori.load"),
    "a number as text": (lambda: fit(learning_rate="fast"), "learning_rate"),
    "no draws": (lambda: fit(num_samples=0), "num_samples"),
    "half a step": (lambda: fit(steps=1.5), "steps"),
    "a mistyped setting": (lambda: fit(learning_rat=1e-4), "learning_rate"),
    "QLoRA by name": (lambda: fit(policy="qlora"), "lora"),
    "a task that is not LoRA": (lambda: fit(policy=peft.PromptTuningConfig()), "LoraConfig"),
    "a length of nothing": (lambda: target(length=0), "max_new_tokens"),
    "no length": (
        lambda: po.Target(prior(), po.Reward(warmth, beta=1.0), ["a"]),
        "max_new_tokens",
    ),
}


@pytest.mark.moves_rng
@pytest.mark.filterwarnings("ignore")  # TRL's own, of the config that is made for the mistake
@pytest.mark.parametrize("act", SETTINGS)
def test_a_mistake_in_settings_is_said(tmp_path, act):
    do, told = SETTINGS[act]
    in_one_line(lambda folder: do(), tmp_path, told)


class Scorer:
    def __call__(self, prompts, completions, **kwargs):
        return [0.5 for _ in completions]


async def slow(completions, **kwargs):
    return [0.0 for _ in completions]


def logging(completions, log_metric=None, trainer_state=None, **kwargs):
    log_metric("length", 1.0)
    return [0.0 for _ in completions]


def tensors(completions, **kwargs):
    import torch

    return torch.zeros(len(completions))


REWARDS = {
    "a function": warmth,
    "an object": Scorer(),
    "a coroutine": slow,
    "a lambda": lambda completions, **kwargs: [1.0] * len(completions),
    "a tensor": tensors,
    "booleans": lambda completions, **kwargs: [True] * len(completions),
    "None where it does not apply": lambda completions, **kwargs: [None] * len(completions),
    "what TRL logs": logging,
}


@pytest.mark.parametrize("act", REWARDS)
def test_a_reward_function_works_unchanged(act):
    draws = po.sample(target(evidence=po.Reward(REWARDS[act], beta=1.0)), num_samples=2)
    assert len(draws.reward_N) == 2


def raises(completions, **kwargs):
    return [1 / 0 for _ in completions]


def wants_a_column(completions, **kwargs):
    return [float(each == "kind") for each in kwargs["answer"]]


WRONG_REWARDS = {
    "it raises": (raises, "test_my_objects.py:"),
    "a column by kwargs": (wants_a_column, "data-set column"),
    "one number": (lambda completions, **kwargs: 1.0, "return a list"),
    "too few": (lambda completions, **kwargs: [1.0], "return one value per completion"),
    "words": (lambda completions, **kwargs: ["good"] * len(completions), "finite reward"),
    "not a number": (lambda completions, **kwargs: [float("nan")] * len(completions), "finite"),
    "nothing returned": (lambda completions, **kwargs: None, "return a list"),
    "no keywords": (lambda texts: [1.0] * len(texts), "completions"),
}


@pytest.mark.parametrize("act", WRONG_REWARDS)
def test_a_mistake_in_a_reward_is_said(tmp_path, act):
    fn, told = WRONG_REWARDS[act]

    def draw(folder):
        po.sample(target(evidence=po.Reward(fn, beta=1.0)), num_samples=3)

    in_one_line(draw, tmp_path, told)


WRONG_EVIDENCE = {
    "a bare function": (lambda: target(evidence=warmth), "posteriori.Reward(warmth, beta=0.1)"),
    "a beta of nothing": (lambda: po.Reward(warmth, beta=0), "beta"),
    "a negative beta": (lambda: po.Reward(warmth, beta=-1.0), "beta"),
    "no function": (lambda: po.Reward(None, beta=1.0), "fn(prompts, completions"),
    "an answer called": (lambda: po.Reward(warmth(["a"]), beta=1.0), "function"),
    "a constraint of numbers": (
        lambda: po.sample(
            target(evidence=po.Constraint(lambda completions, **kw: [0.5] * len(completions))),
            num_samples=2,
        ),
        "true or false",
    ),
    "a missing column": (lambda: target(evidence=po.Verifier(matches)), "data-set column"),
}


@pytest.mark.parametrize("act", WRONG_EVIDENCE)
def test_a_mistake_in_evidence_is_said(tmp_path, act):
    do, told = WRONG_EVIDENCE[act]
    in_one_line(lambda folder: do(), tmp_path, told)
