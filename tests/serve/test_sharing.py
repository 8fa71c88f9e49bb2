"""Requests share passes over the model, and none of them can tell."""

from __future__ import annotations

import random

import pytest
import torch
from helpers import tiny_lm
from served import get, likes_b, post, posts, serving

import posteriori as po
from posteriori.core.seeds import generator
from posteriori.models.execution.together import SampleCall, sample_together


def texts(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [choice["text"] for choice in answer.json()["choices"]]


@pytest.mark.parametrize("share_seeded", [False, True])
@pytest.mark.parametrize("sampler", ["rejection", "importance", "best_of_n", "smc"])
def test_a_seed_gives_the_same_draws_whatever_else_is_asked(sampler, share_seeded):
    bodies = [
        {"model": "small", "prompt": prompt, "n": n, "seed": seed, "max_tokens": length}
        for seed, prompt, n, length in [
            (1, "x", 3, 3),
            (1, "y", 3, 3),
            (2, ["x", "y"], 2, 3),
            (3, "x", 5, 2),
            (4, "y", 1, 3),
            (5, "x", 2, 2),
            (1, "x", 3, 3),
        ]
    ]
    with serving(sampler=sampler, num_samples=40, share_seeded=share_seeded) as served:
        alone = [post(served, body) for body in bodies]
        order = random.Random(0).sample(range(len(bodies)), len(bodies))
        together = posts(served, [bodies[at] for at in order])
    for answer, at in zip(together, order, strict=True):
        assert texts(answer) == texts(alone[at])
        mine, other = answer.json()["posteriori"], alone[at].json()["posteriori"]
        for one, two in zip(mine["log_z"], other["log_z"], strict=True):
            assert one["value"] == pytest.approx(two["value"], abs=1e-9)
    assert texts(alone[0]) == texts(alone[-1])


def test_a_language_models_requests_share_passes():
    lm = tiny_lm("gpt2")
    target = po.Target(lm, po.Reward(likes_b, beta=0.7), ["a b", "c", "d e a c"], 4)
    bodies = [
        {"model": "small", "prompt": target.prompts[seed % 3], "n": 2, "seed": seed}
        for seed in range(24)
    ]
    with serving(target, "importance", num_samples=8, share_seeded=True) as served:
        alone = [texts(post(served, body)) for body in bodies]
        before = passes(served)
        together = [texts(answer) for answer in posts(served, bodies)]
        number, requests = (now - then for now, then in zip(passes(served), before, strict=True))
    assert together == alone
    assert requests == 24
    assert number <= 12  # two requests a pass, and more


def test_a_seed_is_exact_beside_requests_that_share_passes():
    target = po.Target(tiny_lm("gpt2"), po.Reward(likes_b, beta=0.7), ["a b", "c"], 4)
    bodies = [
        {"model": "small", "prompt": "a b", "n": 3} | ({"seed": at} if at % 2 else {})
        for at in range(20)
    ]
    with serving(target, "importance", num_samples=8) as served:
        alone = {at: post(served, bodies[at]).json()["choices"] for at in range(1, 20, 2)}
        before = passes(served)
        together = [answer.json() for answer in posts(served, bodies)]
        number, requests = (now - then for now, then in zip(passes(served), before, strict=True))
    # Not even the last bit of a log-prob differs.
    assert {at: together[at]["choices"] for at in alone} == alone
    assert requests == 20
    assert 10 < number < 18  # ten of one request each, and some that were shared


def passes(served) -> tuple[float, float]:
    lines = get(served, "/metrics").text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("posteriori_requests_per_pass_count", "posteriori_requests_per_pass_sum")
    return tuple(float(found[name]) for name in names)


@pytest.mark.parametrize("kind", ["table", "gpt2"])
def test_one_pass_draws_what_each_call_would(kind, table):
    lm = table if kind == "table" else tiny_lm("gpt2")
    asked = ("x", "y") if kind == "table" else ("a b", "c")

    def calls():
        return [
            SampleCall(asked, 3, 3, generator(1, "a")),
            SampleCall(asked[1:], 5, 3, generator(2, "b")),
            SampleCall(asked[::-1], 2, 3, generator(3, "c")),
        ]

    alone = [lm.sample(c.prompts, c.num_samples, 3, c.generator) for c in calls()]
    for one, two in zip(sample_together(lm, calls()), alone, strict=True):
        assert one.prompt_set == two.prompt_set
        assert one.prompt_ids == two.prompt_ids
        assert torch.equal(one.prompt_index_N, two.prompt_index_N)
        assert torch.equal(one.tokens_NL, two.tokens_NL)
        assert torch.equal(one.lengths_N, two.lengths_N)
        assert torch.equal(one.ended_N, two.ended_N)
        torch.testing.assert_close(one.token_log_prob_NL, two.token_log_prob_NL, rtol=0, atol=1e-5)


def test_one_requests_failure_is_its_own():
    def picky(completions, prompts, **kwargs):
        if "y" in prompts:
            raise ValueError("no y")
        return [1.0] * len(completions)

    from served import small_target

    with serving(small_target(picky)) as served:
        body = {"model": "small", "n": 2, "seed": 1}
        answers = posts(served, [{**body, "prompt": p} for p in "xyxyx"])
    assert [answer.status_code for answer in answers] == [200, 500, 200, 500, 200]
    error = answers[1].json()["error"]
    assert error["code"] == "evidence_failed"
    assert "no y" in error["message"]
