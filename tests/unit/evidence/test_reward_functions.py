"""Reward functions written for TRL's trainers, unchanged; and models as rewards."""

from __future__ import annotations

import asyncio
import functools
import math

import numpy as np
import pytest
import torch
import transformers
from helpers import generator, tiny_lm, word_tokenizer

import posteriori as po
from posteriori.errors import ConfigError, EvidenceError, ModelError

IDS = [[1, 0], [2, 2, 0], [0], [3, 1, 2]]
TEXTS = ["a", "b b", "", "c a b"]


@pytest.fixture
def completions(gpt2) -> po.Completions:
    return gpt2.completions(["a", "a", "c d", "c d"], IDS, 3)


def score(fn, completions, columns=None, beta=2.0):
    return po.Reward(fn, beta=beta).score(completions, columns or {})


def test_everything_comes_by_keyword(completions):
    seen = {}

    def reward(**kwargs):
        seen.update(kwargs)
        return [0.0] * 4

    score(reward, completions, {"answer": [1, 2, 3, 4]})
    assert seen["prompts"] == ["a", "a", "c d", "c d"]
    assert seen["completions"] == TEXTS
    assert seen["completion_ids"] == IDS
    assert seen["answer"] == [1, 2, 3, 4]
    assert seen["trainer_state"].global_step == 0
    assert callable(seen["log_extra"])
    assert callable(seen["log_metric"])


def only_completions(completions):
    return [float(len(text)) for text in completions]


def with_kwargs(completions, **kwargs):
    return only_completions(completions)


def with_prompts_and_column(prompts, completions, answer, **kwargs):
    return [float(len(c)) for p, c, a in zip(prompts, completions, answer, strict=True)]


def with_default(completions, missing=None):
    return only_completions(completions)


def with_none(completions, **kwargs):
    return [float(len(text)) if text else None for text in completions]


def as_array(completions, **kwargs):
    return np.array(only_completions(completions))


def as_tensor(completions, **kwargs):
    return torch.tensor(only_completions(completions))


def as_tuple_of_integers(completions, **kwargs):
    return tuple(len(text) for text in completions)


def as_numpy_scalars(completions, **kwargs):
    return [np.float32(len(text)) for text in completions]


async def asynchronous(completions, **kwargs):
    await asyncio.sleep(0)
    return only_completions(completions)


class Callable:
    def __call__(self, completions, **kwargs):
        return only_completions(completions)

    def method(self, completions, **kwargs):
        return only_completions(completions)


def with_setting(completions, factor, **kwargs):
    return [factor * value for value in only_completions(completions)]


@pytest.mark.parametrize(
    "fn",
    [
        only_completions,
        with_kwargs,
        with_prompts_and_column,
        with_default,
        with_none,
        as_array,
        as_tensor,
        as_tuple_of_integers,
        as_numpy_scalars,
        asynchronous,
        Callable(),
        Callable().method,
        functools.partial(with_setting, factor=1.0),
        lambda completions, **_: [float(len(text)) for text in completions],
    ],
)
def test_any_way_of_writing_one_gives_the_same(fn, completions):
    scores = score(fn, completions, {"answer": ["x"] * 4})
    assert scores.reward.tolist() == [1.0, 3.0, 0.0, 5.0]
    assert scores.log_evidence.tolist() == [0.5, 1.5, 0.0, 2.5]
    assert scores.log_evidence.dtype == torch.float64


def test_none_leaves_the_completion_its_prior_weight(completions):
    scores = score(lambda completions, **kw: [None, 1.0, None, -1.0], completions)
    assert scores.log_evidence.tolist() == [0.0, 0.5, 0.0, -0.5]


def test_minus_infinity_forbids(completions):
    scores = score(lambda completions, **kw: [-math.inf, 1.0, 0.0, 0.0], completions)
    assert scores.log_evidence.tolist() == [-math.inf, 0.5, 0.0, 0.0]


def test_conversations_come_as_messages(gpt2):
    gpt2.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    chat = [{"role": "user", "content": "a b"}]
    seen = {}

    def reward(prompts, completions, **kwargs):
        seen.update(prompts=prompts, completions=completions)
        return [0.0] * 2

    score(reward, gpt2.completions([chat], [[1, 0], [2, 2, 0]], 3))
    assert seen["prompts"] == [chat, chat]
    assert seen["completions"] == [
        [{"role": "assistant", "content": "a"}],
        [{"role": "assistant", "content": "b b"}],
    ]


def test_columns_follow_their_prompt_through_a_run(gpt2):
    prompts, answers = ["a", "b c", "d"], ["A", "BC", "D"]
    seen = []

    def reward(prompts, completions, answer, **kwargs):
        seen.extend(zip(prompts, answer, strict=True))
        return [0.0] * len(completions)

    target = po.Target(gpt2, po.Reward(reward, beta=1.0), prompts, 2, {"answer": answers})
    po.fit(target, "rloo", steps=3, num_samples=2, prompts_per_step=2)
    po.evaluate(target, gpt2, num_samples=2)
    po.exact(target)
    assert set(seen) == set(zip(prompts, answers, strict=True))


def test_what_a_function_logs_ends_in_the_steps_record(gpt2):
    steps = []

    def reward(completions, trainer_state, log_metric, log_extra, **kwargs):
        steps.append((trainer_state.global_step, trainer_state.max_steps))
        log_metric("longest", max(map(len, completions)))
        log_extra("text", completions)
        return [0.0] * len(completions)

    target = po.Target(gpt2, po.Reward(reward, beta=1.0), ["a"], 4)
    fitted = po.fit(target, "rloo", steps=3, num_samples=4)
    assert steps == [(0, 3), (1, 3), (2, 3)]
    assert all(record["longest"] >= 0 for record in fitted.history)


def test_asynchronous_functions_work_inside_a_running_loop(gpt2):
    """As in a notebook, which has an event loop of its own."""
    completions = gpt2.completions(["a"], IDS, 3)

    async def cell():
        return score(asynchronous, completions)

    assert asyncio.run(cell()).reward.tolist() == [1.0, 3.0, 0.0, 5.0]


def test_a_likelihood_is_the_logarithm_of_a_probability(completions):
    likelihood = po.Likelihood(lambda completions, **kw: [1.0, 0.5, 0.0, None])
    scores = likelihood.score(completions, {})
    assert scores.log_evidence.tolist() == [0.0, math.log(0.5), -math.inf, 0.0]
    assert scores.reward.tolist() == [1.0, 0.5, 0.0, 1.0]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_constraint_is_zero_or_minus_infinity(completions, kind):
    constraint = po.Constraint(lambda completions, **kw: kind([True, False, True, False]))
    scores = constraint.score(completions, {})
    assert scores.log_evidence.tolist() == [0.0, -math.inf, 0.0, -math.inf]
    assert scores.reward.tolist() == [1.0, 0.0, 1.0, 0.0]


class TestSequenceClassifiers:
    @pytest.fixture(params=["GPT2", "Bert"])
    def directory(self, request, tmp_path):
        small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        settings = {
            "GPT2": {"n_embd": 8, "n_layer": 1, "n_head": 1, "pad_token_id": 0},
            "Bert": {**small, "num_attention_heads": 1, "pad_token_id": 0},
        }[request.param]
        config = getattr(transformers, f"{request.param}Config")(
            vocab_size=6, num_labels=1, initializer_range=1.0, **settings
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(
                tmp_path
            )
        word_tokenizer(words=("<pad>", *"abcde")).save_pretrained(tmp_path)
        return tmp_path

    def one_by_one(self, directory, texts):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        with torch.no_grad():
            return [
                float(model(**tokenizer(text, return_tensors="pt")).logits[0, 0]) for text in texts
            ]

    @pytest.mark.parametrize("as_path", [True, False])
    def test_score_prompt_and_completion(self, directory, gpt2, as_path):
        completions = gpt2.completions(["a ", "a ", "c d ", "c d "], IDS, 3)
        model = str(directory)
        if not as_path:
            model = transformers.AutoModelForSequenceClassification.from_pretrained(directory)
        reward = po.Reward(model, beta=1.0, batch_size=3)
        texts = [p + c for p, c in zip(completions.prompts, completions.texts, strict=True)]
        expected = self.one_by_one(directory, texts)
        assert len({round(value, 4) for value in expected}) > 1
        assert reward.score(completions, {}).reward.tolist() == pytest.approx(expected, abs=1e-4)

    def test_are_a_target_to_fit(self, directory, gpt2):
        target = po.Target(gpt2, po.Reward(directory, beta=1.0), ["a", "b c"], 3)
        assert len(po.fit(target, "rloo", steps=2, num_samples=4).history) == 2

    def test_with_several_labels_are_refused(self, tmp_path):
        config = transformers.GPT2Config(
            n_embd=8,
            n_layer=1,
            n_head=1,
            vocab_size=6,
            num_labels=2,
            bos_token_id=0,
            eos_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.AutoModelForSequenceClassification.from_config(config)
        model.save_pretrained(tmp_path)
        word_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(EvidenceError, match="has 2 labels, a reward has one"):
            po.Reward(tmp_path, beta=1.0)

    def test_that_are_not_there_are_a_typed_error(self, tmp_path):
        with pytest.raises(ModelError, match="cannot load a sequence-classification model"):
            po.Reward(tmp_path / "nothing", beta=1.0)

    @pytest.mark.moves_rng
    def test_that_have_no_trained_head_are_refused(self, tmp_path):
        """A language model is no reward model: its scores would be a random head's."""
        tiny_lm().save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"no weights for its head .*score"):
            po.Reward(tmp_path, beta=1.0)


@pytest.mark.parametrize("fn", [3.0, None, [3.0], {"f"}])
def test_what_cannot_be_called_is_refused(fn):
    with pytest.raises(EvidenceError, match="neither a function nor"):
        po.Reward(fn, beta=1.0)


def test_a_setting_that_a_function_does_not_take_is_refused():
    with pytest.raises(ConfigError, match="unknown setting 'batch_size'"):
        po.Reward(only_completions, beta=1.0, batch_size=3)


def test_evidence_is_asked_once_for_all_draws_in_their_order(gpt2):
    calls = []

    def reward(completion_ids, **kwargs):
        calls.append(completion_ids)
        return [0.0] * len(completion_ids)

    target = po.Target(gpt2, po.Reward(reward, beta=1.0), ["a", "b"], 3)
    drawn = gpt2.sample(target.prompts, 3, 3, generator())
    target.log_density(drawn)
    assert calls == [drawn.completion_ids]
