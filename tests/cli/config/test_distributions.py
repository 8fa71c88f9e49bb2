"""Moments, experts and powers from a config: made as by Python, and refused in one line."""

from __future__ import annotations

import json
import re

import pytest
from helpers import WORDS, generator, tiny_lm, word_tokenizer

import posteriori as po
from posteriori.cli.build import build_target
from posteriori.config.check import make_plan

PLAIN = """kind = "reward"
function = "my_reward.py:score"
beta = 0.5"""

MOMENTS = """kind = "moments"
per_prompt = true
[evidence.features.has_b]
function = "my_features.py:has_b"
mean = 0.5"""

FEATURES = """\
def has_b(completion_ids, **kwargs):
    return [2 in y for y in completion_ids]


def never(completions, **kwargs):
    return [False] * len(completions)
"""


@pytest.fixture
def job(job):
    job.write("my_features.py", FEATURES)
    tiny_lm("gpt2", seed=4).save_pretrained(job.folder / "expert")
    return job


def target(job, text: str) -> po.Target:
    job.change(PLAIN, text)
    return build_target(make_plan(job.config, []))


def test_moments(job):
    whole = target(job, MOMENTS)
    moments = whole.evidence[0]
    assert isinstance(moments, po.Moments)
    assert moments._fitted is not None, "fitted before anything else is done"
    assert moments.per_prompt
    assert po.exact(whole).evaluate_target()["mean_reward"] == pytest.approx(0.5, abs=1e-8)


def test_moments_that_are_fitted_by_draws(job):
    text = MOMENTS.replace("per_prompt = true", 'method = "draws"\nnum_samples = 300\nseed = 4')
    moments = target(job, text).evidence[0]
    assert moments.fitted.num_draws == 600
    assert moments.seed == 4


def test_an_expert_with_a_prefix(job):
    whole = target(job, 'kind = "expert"\nmodel = "expert"\nweight = 0.5\nprompt_prefix = "c d "')
    same = po.Expert(job.folder / "expert", 0.5, "c d ")
    drawn = whole.prior.sample(["a b"], 10, 3, generator())
    assert whole.score(drawn).log_evidence.tolist() == same.score(drawn, {}).log_evidence.tolist()


def test_a_teacher(job):
    whole = target(job, 'kind = "teacher"\nmodel = "expert"\nweight = 1.5')
    (evidence,) = whole.evidence
    assert isinstance(evidence, po.Teacher)
    assert evidence.weight == 1.5
    exact = po.exact(whole)
    teacher = po.load(job.folder / "expert")
    pairs = zip(exact.log_evidence, exact.log_prob(teacher), exact.log_prior, strict=True)
    for log_e, theirs, mine in pairs:
        assert log_e.tolist() == pytest.approx((1.5 * (theirs - mine)).tolist(), abs=1e-4)


def test_a_power(job):
    (evidence,) = target(job, 'kind = "power"\nalpha = 2.5').evidence
    assert isinstance(evidence, po.Power)
    assert evidence.alpha == 2.5


@pytest.mark.parametrize(
    "text",
    [
        MOMENTS,
        'kind = "expert"\nmodel = "expert"',
        'kind = "teacher"\nmodel = "expert"',
        'kind = "power"\nalpha = 2',
    ],
)
def test_a_whole_run(job, text):
    job.change(PLAIN, text)
    assert job.fit("--quiet", "--set", "evaluate.num_samples=20").code in (0, 1)
    assert json.loads((job.output / "evaluation.json").read_text())
    assert job.sample("-o", str(job.folder / "draws.jsonl"), "--num-samples", "10").code == 0


REFUSED = {
    "moments of nothing": ('kind = "moments"', "'features' is missing"),
    "a moment without a mean": (
        MOMENTS.replace("mean = 0.5", ""),
        "'evidence.0.features.has_b.mean' is missing",
    ),
    "a misspelt feature": (
        MOMENTS.replace("py:has_b", "py:has_bb"),
        "evidence.0.features.has_b.function: .*did you mean 'has_b'?",
    ),
    "beta for moments": (
        MOMENTS.replace("per_prompt = true", "beta = 1.0"),
        "'beta' means nothing to moments; it has: features, per_prompt, num_samples, seed, method",
    ),
    "an expert of nothing": ('kind = "expert"\nweight = 1.0', "'model' is missing"),
    "an expert that is not there": (
        'kind = "expert"\nmodel = "./nobody"',
        "evidence.0.model: there is no model at",
    ),
    "an expert of weight 0": (
        'kind = "expert"\nmodel = "expert"\nweight = 0.0',
        "'weight' is 0, so the expert says nothing",
    ),
    "a teacher of weight 0": (
        'kind = "teacher"\nmodel = "expert"\nweight = 0.0',
        "'weight' is 0, so the teacher says nothing",
    ),
    "a power of nothing": ('kind = "power"', "'alpha' is missing; write alpha = 4.0"),
    "a power of 0": ('kind = "power"\nalpha = 0.0', "'evidence.0.alpha' = 0.0 is not valid"),
    "alpha for a reward": (
        f"{PLAIN}\nalpha = 2.0",
        "a reward has no 'alpha'; it is for kind = \"p",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("nothing_loads")
def test_what_is_refused(job, name):
    text, message = REFUSED[name]
    job.change(PLAIN, text)
    result = job.fit("--dry-run")
    assert result.code == 2
    assert re.search(message.replace("?", r"\?"), result.error), result.error


def test_what_only_shows_once_models_are_there(job):
    job.change(PLAIN, MOMENTS.replace("py:has_b", "py:never"))
    result = job.fit("--quiet")
    assert result.code == 1
    assert "'has_b' is 0 (never true) for all" in result.error


def test_an_expert_with_other_tokens(job):
    tokenizer = word_tokenizer(words=(WORDS[0], *reversed(WORDS[1:])))
    tiny_lm("gpt2", seed=4, tokenizer=tokenizer).save_pretrained(job.folder / "other")
    job.change(PLAIN, 'kind = "expert"\nmodel = "other"')
    result = job.fit("--quiet")
    assert result.code == 2
    assert "prior and expert do not share their tokens: token 'a' is 1" in result.error
    job.change('model = "other"', 'model = "other"\nover_text = true')
    assert job.sample("-o", str(job.folder / "draws.jsonl"), "--num-samples", "10").code == 0
