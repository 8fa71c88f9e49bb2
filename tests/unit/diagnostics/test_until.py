"""evaluate(until=): it stops when it may, says what its interval rests on, and refuses the rest."""

from __future__ import annotations

import math

import pytest
from helpers import generator
from tables import posterior_table

import posteriori as po
from posteriori.diagnostics.evaluate.sequences import asymptotic_factor
from posteriori.errors import ConfigError

PROMPTS, WORDS = ["x", "y"], ["<eos>", "a", "b"]


def reward(completions, **_):
    return [float(text.count("a")) for text in completions]


def has_a(completions, **_):
    return ["a" in text for text in completions]


@pytest.fixture
def target() -> po.Target:
    prior = po.TabularLM.random(WORDS, 3, PROMPTS, seed=5)
    return po.Target(prior, po.Reward(reward, beta=0.7, max_reward=3.0), PROMPTS, 3)


def test_it_draws_until_the_figure_is_known(target):
    policy = posterior_table(target, 0.5)
    report = po.evaluate(target, policy, 200, seed=0, until=0.05)
    looked = report.looked["kl_to_target"]
    assert looked.reached
    assert looked.basis == "asymptotic"
    assert looked.half_width <= 0.05
    assert len(looked.draws) > 2
    assert (
        list(looked.draws)
        == [200, 300, 450, 675, 1013, 1520, 2280, 3420, 5130, 7695][: len(looked.draws)]
    )
    assert len(report.draws) == 2 * looked.draws[-1]
    assert report["kl_to_target"].num_draws == 4 * looked.draws[-1]
    middle = (looked.low + looked.high) / 2
    assert middle == pytest.approx(report["kl_to_target"].value, abs=1e-12)
    truth = po.exact(target).evaluate(policy)["kl_to_target"].mean()
    assert looked.low < truth < looked.high
    assert "until_not_reached" not in {found.name for found in report.findings}


def test_the_look_before_was_not_enough(target):
    policy = posterior_table(target, 0.5)
    last = po.evaluate(target, policy, 200, seed=0, until=0.05).looked["kl_to_target"]
    before = po.evaluate(target, policy, 200, seed=0, until=0.05, max_samples=last.draws[-2])
    assert not before.looked["kl_to_target"].reached
    assert before.looked["kl_to_target"].draws == last.draws[:-1]
    (found,) = [f for f in before.findings if f.name == "until_not_reached"]
    assert found.level == "warn"


def test_the_first_look_is_the_evaluation_without_it(target):
    policy = posterior_table(target, 0.5)
    plain = po.evaluate(target, policy, 300, seed=4)
    waited = po.evaluate(target, policy, 300, seed=4, until=50.0)
    assert dict(plain) == dict(waited)
    assert plain.looked == {}


def test_bounded_evidence_has_a_log_z_that_rests_on_nothing(target):
    report = po.evaluate(
        target, posterior_table(target, 0.5), 500, seed=0, until={"log_z": 0.3, "elbo": 0.2}
    )
    assert report.looked["log_z"].basis == "bounded"
    assert report.looked["elbo"].basis == "asymptotic"
    truth = po.exact(target).log_z.mean()
    assert report.looked["log_z"].low < truth < report.looked["log_z"].high
    assert all(each.reached for each in report.looked.values())
    unbounded = po.Target(target.prior, po.Reward(reward, beta=0.7), PROMPTS, 3)
    report = po.evaluate(unbounded, target.prior, 500, seed=0, until={"log_z": 0.3})
    assert report.looked["log_z"].basis == "asymptotic"


def test_what_is_infinite_is_not_waited_for(target):
    hard = po.Target(target.prior, po.Constraint(has_a), PROMPTS, 3)
    report = po.evaluate(hard, target.prior, 100, seed=0, until=0.1)
    looked = report.looked["kl_to_target"]
    assert looked.draws == (100,)
    assert not looked.reached
    assert looked.half_width == math.inf


def test_the_factor_is_the_formula():
    """By hand at n = first = 100, alpha = 0.05: n rho^2 = 5.9915 + log 5.9915 + 1."""
    ratio = 5.991464547107982 + math.log(5.991464547107982) + 1
    wanted = math.sqrt(2 * (ratio + 1) / ratio * math.log(math.sqrt(ratio + 1) / 0.05))
    assert asymptotic_factor(100, 100, 0.05) == pytest.approx(wanted, rel=1e-12)
    assert 3.0 < wanted < 3.1
    assert 3.2 < asymptotic_factor(1000, 100, 0.05) < 3.3


REFUSED = {
    "a figure that is no mean": ({"until": {"tv": 0.1}}, "cannot wait for 'tv'"),
    "nothing": ({"until": {}}, "until is empty"),
    "0": ({"until": 0.0}, "until=0"),
    "no number": ({"until": math.nan}, "until=nan"),
    "too few": ({"until": 0.1, "max_samples": 50}, "max_samples=50 is below num_samples=100"),
    "a confidence of 1": ({"until": 0.1, "confidence": 1.0}, "confidence=1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_waited_for(target, name):
    settings, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        po.evaluate(target, target.prior, 100, **settings)


def test_given_draws_are_of_one_number(target):
    from posteriori.core.draw import draw

    with pytest.raises(ConfigError, match="until draws as many as it takes"):
        po.evaluate(
            target,
            posterior_table(target, 0.5),
            100,
            until=0.1,
            prior_draws=draw(target, target.prior, 100, generator(0)),
        )
