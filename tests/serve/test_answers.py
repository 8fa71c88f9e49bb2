"""Answers: OpenAI's shape, what the library says beside it, and the law of what is drawn."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from served import BETA, get, post, posts, serving, small_target

import posteriori as po
from posteriori.samplers.independent.importance import Importance
from posteriori.samplers.independent.rejection import Rejection
from posteriori.serve.app import Server
from posteriori.serve.settings import ServeConfig

FALSE_ALARM = 1e-6


def law(target: po.Target, prompt: int) -> dict[str, float]:
    """p* of each text, by enumeration."""
    exact = po.exact(target)
    log_p = exact.log_prior[prompt] + exact.log_evidence[prompt]
    p = (log_p - log_p.logsumexp(0)).exp()
    found: Counter[str] = Counter()
    for text, mass in zip(exact.outcomes[prompt].texts, p.tolist(), strict=True):
        found[text] += mass
    return found


def p_value(texts: list[str], expected: dict[str, float]) -> float:
    """Of chi-squared; texts of fewer than five expected draws are one cell."""
    seen, number = Counter(texts), len(texts)
    assert set(seen) <= set(expected)
    large = [text for text, p in expected.items() if p * number >= 5]
    observed = np.array([seen[text] for text in large] + [0.0])
    wanted = np.array([expected[text] * number for text in large] + [0.0])
    observed[-1], wanted[-1] = number - observed.sum(), number - wanted.sum()
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    return float(stats.chi2.sf(statistic, len(large)))


def test_served_rejection_draws_follow_the_posterior(small):
    # 3,000 draws per prompt: enough that they are told from the prior's.
    target = small_target()
    bodies = [
        {"model": "small", "prompt": ["x", "y"], "n": 100, "seed": seed} for seed in range(30)
    ]
    answers = [answer.json() for answer in posts(small, bodies)]
    choices = [choice for answer in answers for choice in answer["choices"]]
    for at in range(2):
        texts = [c["text"] for c in choices if c["posteriori"]["prompt_index"] == at]
        assert len(texts) == 3000
        assert p_value(texts, law(target, at)) > FALSE_ALARM
        assert p_value(texts, law(target.tempered(0.0), at)) < FALSE_ALARM


def test_an_answer_says_what_its_draws_are(small):
    body = {"model": "small", "prompt": ["x", "y"], "n": 4, "seed": 7}
    answer = post(small, body).json()
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == list(range(8))
    assert [c["posteriori"]["prompt_index"] for c in answer["choices"]] == [0] * 4 + [1] * 4
    about = answer["posteriori"]
    assert (about["sampler"], about["guarantee"], about["seed"]) == ("rejection", "exact", 7)
    assert about["ess"] == pytest.approx([4.0, 4.0])
    assert [z["kind"] for z in about["log_z"]] == ["lower_bound"] * 2
    assert about["cost"]["lm_tokens"] > 0
    for choice in answer["choices"]:
        words = choice["text"].split()
        assert choice["posteriori"]["reward"] == words.count("b")
        assert choice["posteriori"]["log_evidence"] == pytest.approx(words.count("b") / BETA)
        assert choice["finish_reason"] == ("length" if len(words) == 3 else choice["finish_reason"])


def test_log_z_is_that_of_enumeration():
    target = small_target()
    exact = po.exact(target).log_z.tolist()
    with serving(sampler="importance", num_samples=4000) as served:
        about = post(served, {"model": "small", "prompt": ["x", "y"], "seed": 1}).json()
    about = about["posteriori"]
    assert (about["guarantee"], about["sampler_guarantee"]) == ("asymptotic", "properly_weighted")
    assert about["num_draws"] == 4000
    for z, truth, effective in zip(about["log_z"], exact, about["ess"], strict=True):
        assert abs(z["value"] - truth) < 5 * z["standard_error"]
        assert 1 < effective < 4000


@pytest.mark.parametrize(
    ("sampler", "settings", "guarantee"),
    [
        ("importance", {}, "asymptotic"),
        ("smc", {"twist": "evidence"}, "asymptotic"),
        ("best_of_n", {"n": 4}, "heuristic"),
    ],
)
def test_other_samplers(sampler, settings, guarantee):
    with serving(sampler=sampler, settings=settings, num_samples=64) as served:
        body = {"model": "small", "prompt": "x", "n": 6, "seed": 1}
        answer = post(served, body)
        again = post(served, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["posteriori"]["guarantee"] == guarantee
    texts = [choice["text"] for choice in answer.json()["choices"]]
    assert len(texts) == 6
    assert texts == [choice["text"] for choice in again.json()["choices"]]
    assert answer.json()["posteriori"]["of_target"] == (sampler != "best_of_n")


def test_resampled_draws_follow_the_posterior():
    # One of 512 weighted draws is within chi^2(p*, prior)/512 < 0.02 nats of p*: too little to be
    # found by 250 draws; those of the prior fail.
    target = small_target()
    with serving(sampler="importance", num_samples=512) as served:
        bodies = [{"model": "small", "prompt": "x", "seed": seed} for seed in range(250)]
        found = [each.json() for each in posts(served, bodies)]
    texts = [answer["choices"][0]["text"] for answer in found]
    assert p_value(texts, law(target, 0)) > FALSE_ALARM
    assert p_value(texts, law(target.tempered(0.0), 0)) < FALSE_ALARM


def test_stop_cuts_the_draw(small):
    body = {"model": "small", "prompt": "x", "n": 60, "seed": 5}
    whole = [c["text"] for c in post(small, body).json()["choices"]]
    cut = post(small, {**body, "stop": ["b", "zz"]}).json()["choices"]
    assert [c["text"] for c in cut] == [text.partition("b")[0] for text in whole]
    for choice, text in zip(cut, whole, strict=True):
        assert "b" not in text or choice["finish_reason"] == "stop"


def test_log_probs_are_the_priors(small):
    body = {"model": "small", "prompt": "y", "n": 40, "seed": 2, "logprobs": 0}
    for choice in post(small, body).json()["choices"]:
        told = choice["logprobs"]
        assert "".join(told["tokens"]) == choice["text"]
        total = sum(told["token_logprobs"])
        if choice["finish_reason"] == "length" and len(told["tokens"]) == 3:
            assert total == pytest.approx(choice["posteriori"]["log_prior"])
        else:
            assert total > choice["posteriori"]["log_prior"]  # the end has a log-prob too
        offsets = [sum(map(len, told["tokens"][:at])) for at in range(len(told["tokens"]))]
        assert told["text_offset"] == offsets


def test_max_tokens_is_another_target(small):
    target = small_target()
    shorter = po.Target(target.prior, target.evidence, target.prompts, 2)
    answer = post(small, {"model": "small", "prompt": "x", "n": 128, "seed": 1, "max_tokens": 2})
    texts = [choice["text"] for choice in answer.json()["choices"]]
    assert p_value(texts, law(shorter, 0)) > FALSE_ALARM
    assert answer.json()["posteriori"]["max_new_tokens"] == 2


def test_a_stream_is_the_answer_in_pieces(small):
    body = {"model": "small", "prompt": "x", "n": 3, "seed": 11}
    whole = post(small, body).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = post(small, {**body, **options})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = streamed.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    found = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    texts = ["", "", ""]
    for event in found:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert found[-1]["usage"] == whole["usage"]
    about = [event["posteriori"] for event in found if "posteriori" in event]
    assert [each["guarantee"] for each in about] == ["exact"]


def test_models_health_and_metrics(small):
    models = get(small, "/v1/models").json()
    assert [each["id"] for each in models["data"]] == ["small"]
    assert models["data"][0]["posteriori"]["guarantee"] == "exact"
    assert get(small, "/v1/models/small").json()["id"] == "small"
    assert get(small, "/v1/models/other").status_code == 404
    assert get(small, "/health").json() == {"status": "ok"}
    post(small, {"model": "small", "prompt": "x", "n": 3})
    text = get(small, "/metrics").text
    assert 'posteriori_requests_total{path="/v1/completions",status="200"} 1.0' in text
    assert "posteriori_draws_total 3.0" in text
    assert "posteriori_requests_held 0.0" in text


class Fallen(Rejection):
    """Rejection that has found exact draws to be out of reach."""

    def run(self, job):
        return replace(Importance().run(job), guarantee="properly_weighted")


def test_rejection_that_had_to_weigh_its_draws_says_so():
    served = Server(small_target(), Fallen(), ServeConfig(name="small", num_samples=200))
    try:
        about = post(served, {"model": "small", "prompt": "x", "n": 3, "seed": 1}).json()
    finally:
        served.close()
    told = about["posteriori"]
    assert (told["guarantee"], told["sampler_guarantee"]) == ("asymptotic", "properly_weighted")
    assert told["num_draws"] == 200
    assert len(about["choices"]) == 3
    assert told["cost"]["evidence_calls"] == 203
