"""Forty acts of a first day, half of them mistakes: each ends in a result or in one line that says
what to do. Data, objects, settings, reports and progress have tests of their own beside this one.
"""

from __future__ import annotations

import pytest

import posteriori as po
from posteriori.errors import PosterioriError

MODEL = "tiny"
ROWS = [{"prompt": "You are", "answer": "kind"}, {"prompt": "You are", "answer": "good"}]


def warmth(completions, **kwargs):
    return [float("good" in text or "kind" in text) for text in completions]


def matches(completions, answer, **kwargs):
    return [word in text for word, text in zip(answer, completions, strict=True)]


def broken(completions, **kwargs):
    raise RuntimeError("no network")


def target(evidence=None, prompts=("You are",), prior=MODEL):
    return po.Target(prior, evidence or po.Reward(warmth, beta=0.5), prompts, 4)


def frame():
    return pytest.importorskip("pandas").DataFrame(ROWS)


def data_set():
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


RESULTS = {
    "a model by name": lambda: po.load(MODEL),
    "texts": lambda: po.load(MODEL).generate(["You are"], max_new_tokens=3),
    "prompts of a Dataset": lambda: target(po.Verifier(matches), data_set()),
    "prompts of a DataFrame": lambda: target(po.Verifier(matches), frame()),
    "prompts of rows": lambda: target(po.Verifier(matches), ROWS),
    "a stream of prompts": lambda: po.prompts(data_set().to_iterable_dataset(), max_prompts=1),
    "a policy by name": lambda: po.evaluate(target(), MODEL, num_samples=8),
    "a report's figure": lambda: po.evaluate(target(), MODEL, num_samples=8)["kl_to_target"],
    "a report as a frame": lambda: po.evaluate(target(), MODEL, num_samples=8).to_dataframe(),
    "a report in a notebook": lambda: po.evaluate(target(), MODEL, num_samples=8)._repr_html_(),
    "draws as a frame": lambda: po.sample(target(), num_samples=4).to_dataframe(),
    "pass@k": lambda: po.pass_at_k(target(po.Verifier(matches), ROWS), num_samples=8, k=[1, 2]),
    "a constraint with a literal": lambda: po.sample(
        target(po.constraints.regex(r"[^\$\{]*")), "smc", num_samples=8
    ),
    "LoRA by PEFT's config": lambda: po.fit(
        target(),
        "rloo",
        steps=1,
        num_samples=2,
        learning_rate=1e-4,
        policy=__import__("peft").LoraConfig(r=2),
    ),
    "one prompt's sample": lambda: target(prompts=["a", "b", "c"]).sampled(1),
}

MISTAKES = {
    "a mistyped model": (lambda: po.load("tniy"), "tiny"),
    "a mistyped prior": (lambda: target(prior="tniy"), "tiny"),
    "a mistyped policy": (lambda: po.evaluate(target(), "tniy"), "tiny"),
    "a bare function": (lambda: target(warmth), "posteriori.Reward(warmth, beta=0.1)"),
    "num_generations": (lambda: po.fit(target(), num_generations=8, steps=1), "num_samples"),
    "beta of fit": (lambda: po.fit(target(), beta=0.1, steps=1), "Reward(fn, beta=...)"),
    "max_steps": (lambda: po.fit(target(), max_steps=1), "steps"),
    "no steps": (lambda: po.fit(target()), "steps"),
    "an unknown objective": (lambda: po.fit(target(), "grop", steps=1), "grpo"),
    "an unknown sampler": (lambda: po.sample(target(), "scm"), "smc"),
    "a mistyped figure": (
        lambda: po.evaluate(target(), MODEL, num_samples=4)["kl_to_taget"],
        "kl_to_target",
    ),
    "a missing column": (lambda: target(po.Verifier(matches)), "add a data-set column"),
    "a function that raises": (
        lambda: po.evaluate(target(po.Reward(broken, beta=1.0)), MODEL, num_samples=4),
        "test_acts.py:",
    ),
    "one string as prompts": (lambda: target(prompts="You are"), 'prompts=["..."]'),
    "one conversation as prompts": (
        lambda: target(prompts=[{"role": "user", "content": "hi"}]),
        "write a list of them",
    ),
    "a missing file": (lambda: target(prompts="prompts.csv"), "check 'prompts'"),
    "a question for a prompt": (
        lambda: target(prompts=[{"question": "why?"}]),
        "prompt_column",
    ),
    "no prompts": (lambda: target(prompts=[]), 'prompts=[""]'),
    "a broken regex": (lambda: po.constraints.regex("("), "\\("),
    "a Reward without beta": (lambda: po.evaluate(target(po.Reward(warmth)), MODEL), "beta"),
    "an unknown twist": (lambda: po.sample(target(), "smc", twist="prefx"), "prefix"),
    "a report of nothing": (lambda: po.report(), "name a run"),
    "overwriting nothing": (
        lambda: po.fit(target(), "rloo", steps=1, overwrite=True),
        "output_dir",
    ),
    "pass@k of grades": (lambda: po.pass_at_k(target(), num_samples=8), "posteriori.Verifier"),
    "a policy of another kind": (
        lambda: po.fit(target(), "rloo", steps=1, policy=3),
        'policy="full"',
    ),
}


def test_there_are_forty():
    assert len(RESULTS) + len(MISTAKES) >= 40


@pytest.mark.moves_rng
@pytest.mark.parametrize("act", RESULTS)
def test_an_act_ends_in_a_result(act):
    assert RESULTS[act]() is not None


@pytest.mark.parametrize("act", MISTAKES)
def test_a_mistake_ends_in_one_line_that_says_what_to_do(act):
    do, hint = MISTAKES[act]
    with pytest.raises(PosterioriError) as caught:
        do()
    told = str(caught.value)
    assert "\n" not in told
    assert hint in told
