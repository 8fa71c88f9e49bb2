"""An engine, and any served policy, behind an OpenAI-compatible server."""

from __future__ import annotations

import pytest
import torch
from engine_fakes import Fake
from engine_server import Style, serving
from helpers import reward, tiny_lm

import posteriori as po
from posteriori.errors import ConfigError, EngineError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PROMPTS = ["a", "c d", "e"]

STYLES = {
    "vllm": Style(),
    "echo": Style(prompts="echo"),
    "texts": Style(ids=False, shows_end=False),
    "texts, echo": Style(ids=False, prompts="echo", shows_end=False),
    "llama.cpp": Style(chat_form=True, shows_end=False),
}


def target(lm: po.CausalLM) -> po.Target:
    return po.Target(lm, po.Reward(reward, beta=0.5), PROMPTS, 4)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_every_form_of_answer_is_the_same_draws(style):
    lm = tiny_lm()
    with serving(lm, style=style) as served:
        policy = po.Served(lm, url=served.url)
        drawn = policy.sample(PROMPTS, 20, 4, seeded())
        torch.testing.assert_close(drawn.log_prob_N, lm.log_prob(drawn).detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            policy.log_prob(drawn), lm.log_prob(drawn).detach(), rtol=0, atol=1e-5
        )
        drawn.check_outcomes(4)
        assert bool(drawn.ended_N.any())
        assert bool(drawn.truncated_N.any())
        seen = policy._session.frequencies.tokens
        # Where ends are not shown, what is left would not be as frequent as it is probable.
        assert seen == (int(drawn.lengths_N.sum()) if style.shows_end else 0)
        asked = served.asked[0]
    assert asked["model"] == "small"
    assert asked["temperature"] == asked["top_p"] == asked["repetition_penalty"] == 1.0
    assert asked["top_k"] == asked["min_p"] == 0


def test_the_judged_policy_is_what_is_served():
    """Its KL is that of the server's model, not of the prior: 6 standard errors."""
    lm, other = tiny_lm(), tiny_lm(seed=3)
    there = target(lm)
    with serving(other) as served:
        report = po.evaluate(there, po.Served(lm, url=served.url), num_samples=400, seed=0)
    exact = po.exact(there).evaluate(other)
    for name in ("kl_to_target", "kl_to_prior", "entropy"):
        assert abs(report[name].value - exact[name].mean()) < 6 * report[name].standard_error
    assert not [f for f in report.findings if f.name.startswith("served")]


@pytest.mark.parametrize(
    ("sabotage", "name"),
    [
        ("temperature", "served_otherwise"),
        ("top_p", "served_otherwise"),
        ("temperature", "served_weights"),
    ],
)
def test_a_server_that_samples_otherwise_is_found_out(sabotage, name):
    lm, other = tiny_lm(), tiny_lm(seed=3)
    fake = Fake(sabotage=sabotage, temperature=0.5)
    with serving(other, fake) as served:
        report = po.evaluate(target(lm), po.Served(lm, url=served.url), num_samples=400, seed=0)
    found = {finding.name: finding for finding in report.findings}
    assert found[name].level == "stop"


def test_a_server_that_reports_the_warped_log_probs_is_found_out():
    """Draws have the log-probs of top-p, and the same texts as prompts those of the model."""

    class Warped(Fake):
        def draw(self, requests):
            plain, self.lm = self.lm, self.lm.warped(top_p=0.6)
            try:
                return super().draw(requests)
            finally:
                self.lm = plain

    lm = tiny_lm()
    with serving(lm, Warped()) as served:
        policy = po.Served(lm, url=served.url)
        policy.sample(PROMPTS, 20, 4, seeded())
        assert [f.name for f in policy.served_findings()] == ["served_warped"]


def test_without_log_probs_of_prompts_it_is_refused_by_name():
    lm = tiny_lm()
    with serving(lm, style=Style(prompts="")) as served:
        policy = po.Served(lm, url=served.url)
        with pytest.raises(EngineError, match="neither by prompt_logprobs nor by echo"):
            po.evaluate(target(lm), policy, num_samples=20)


def test_adapters_are_loaded_in_place_and_verified():
    lm = tiny_lm()
    there = target(lm)
    with serving(lm) as served, po.Engine(lm, "http", url=served.url) as engine:
        fitted = po.fit(there, "rloo", steps=3, num_samples=8, policy="lora", sampler=engine)
        loads = [body["lora_path"] for body in served.asked if "lora_path" in body]
        folder = engine._session._backend._folder
        assert folder.is_dir()
    assert len(loads) == 3
    assert not folder.exists()
    assert fitted.history[-1]["engine_kl"] == pytest.approx(0, abs=1e-9)
    drawn = [body for body in served.asked if "n" in body]
    assert {body["model"] for body in drawn} == {"posteriori"}


def test_a_server_that_keeps_the_old_adapter_is_refused():
    lm = tiny_lm()
    fake = Fake(sabotage="stale")
    settings = {"steps": 20, "num_samples": 8, "policy": "lora", "learning_rate": 0.05}
    with (
        serving(lm, fake) as served,
        po.Engine(lm, "http", url=served.url) as engine,
        pytest.raises(EngineError, match="after loading them twice"),
    ):
        po.fit(target(lm), "rloo", sampler=engine, **settings)


def test_whole_weights_are_not_sent():
    lm = tiny_lm()
    with serving(lm) as served, po.Engine(lm, "http", url=served.url) as engine:
        with pytest.raises(EngineError, match="takes LoRA adapters alone"):
            po.fit(target(lm), "rloo", steps=2, num_samples=8, sampler=engine)
        # The prior's own weights are there.
        fitted = po.fit(target(lm), "rwr", steps=2, num_samples=8, sampler=engine)
    assert fitted.history[-1]["engine_ess"] == pytest.approx(1)


def test_another_model_than_the_engine_was_told_is_refused():
    lm = tiny_lm()
    with (
        serving(tiny_lm(seed=3)) as served,
        po.Engine(lm, "http", url=served.url) as engine,
        pytest.raises(EngineError, match="does not draw from the model's weights"),
    ):
        engine.sample(PROMPTS, 8, 4, seeded())


def test_a_busy_server_is_asked_again_and_a_dead_one_is_named():
    lm = tiny_lm()
    with serving(lm) as served:
        policy = po.Served(lm, url=served.url)
        served.fails = 1
        assert len(policy.sample(["a"], 2, 4, seeded())) == 2
        url = served.url
    with pytest.raises(EngineError, match="did not answer in 1 tries"):
        po.Served(lm, url=url, retries=0).sample(["a"], 2, 4, seeded())


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ({"choices": []}, "has 0 choices for 2"),
        ({"error": "no"}, "has no choices"),
        ({"choices": [{"text": "b"}] * 2}, "has no log-probs"),
        ({"choices": [{"logprobs": {"tokens": ["a"]}}] * 2}, "of no known form"),
        (
            {"choices": [{"logprobs": {"tokens": ["zz"], "token_logprobs": [-1.0]}}] * 2},
            "writes a token as 'zz'",
        ),
        (
            {
                "choices": [
                    {
                        "token_ids": [1, 2, 3],
                        "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]},
                    }
                ]
                * 2
            },
            "has 3 tokens and 1 log-probs",
        ),
    ],
)
def test_answers_that_are_none_are_refused_by_name(answer, what, monkeypatch):
    lm = tiny_lm()
    with serving(lm) as served:
        monkeypatch.setattr(served, "answer", lambda path, body: answer)
        with pytest.raises(EngineError, match=what):
            po.Served(lm, url=served.url).sample(["a"], 2, 4, seeded())


def test_urls_that_are_none():
    with pytest.raises(ConfigError, match="no address of a server"):
        po.Served(tiny_lm(), url="localhost").sample(["a"], 1, 4, seeded())
    with pytest.raises(ConfigError, match="user name or password"):
        po.Served(tiny_lm(), url="http://me:secret@localhost/v1").sample(["a"], 1, 4, seeded())
