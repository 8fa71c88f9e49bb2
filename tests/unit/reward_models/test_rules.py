"""Rule models: what is read, learned, kept on disk; and their product as evidence."""

from __future__ import annotations

import math

import pytest
import torch

import posteriori as po
from posteriori import testing
from posteriori.errors import ConfigError, DataError, ModelError
from posteriori.reward_models.head_posterior import HeadPosterior
from posteriori.reward_models.rules.rule_model import REFERENCE

PROMPTS, WORDS = ["x", "y"], ["<eos>", "a", "b"]


class Counts:
    """A linear reward over how often each letter comes; the reference has none."""

    def __init__(self, weights, root=None, members=None, temperature=1.0):
        w = torch.tensor(weights, dtype=torch.float64)
        self.posterior = HeadPosterior(w, torch.zeros(3, dtype=torch.float64), members, root)
        self.temperature = temperature

    def features(self, prompts, completions, batch_size=32):
        rows = [
            [float(text == REFERENCE), text.count("a"), text.count("b")] for text in completions
        ]
        return torch.tensor(rows, dtype=torch.float64)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


ONE = Counts([0.4, 1.0, -2.0], temperature=2.0)
TWO = Counts([-1.0, -0.7, 0.3])


def test_the_product_by_enumeration():
    """p* = prior x sigmoid((r1 - t1) / 2)^3 x sigmoid(r2 - t2), outcome by outcome; a mutant that
    leaves out the threshold, the temperature or the weight is another target."""
    prior = po.TabularLM.random(WORDS, 3, PROMPTS, seed=5)
    rules = po.Rules({"one": po.RuleModel(ONE), "two": po.RuleModel(TWO)}, weights={"one": 3.0})
    exact = po.exact(po.Target(prior, rules, PROMPTS, 3))

    def law(at, threshold=0.4, temperature=2.0, weight=3.0):
        log_p = []
        texts = exact.outcomes[at].texts
        for text, log_prior in zip(texts, exact.log_prior[at].tolist(), strict=True):
            a, b = text.count("a"), text.count("b")
            one = sigmoid((a - 2.0 * b - threshold) / temperature)
            two = sigmoid(-0.7 * a + 0.3 * b + 1.0)
            log_p.append(log_prior + weight * math.log(one) + math.log(two))
        found = torch.tensor(log_p, dtype=torch.float64)
        return found - found.logsumexp(0)

    for at in range(len(PROMPTS)):
        torch.testing.assert_close(exact.log_posterior[at], law(at), rtol=0, atol=1e-8)
        for mutant in ({"threshold": 0.0}, {"temperature": 1.0}, {"weight": 1.0}):
            assert float((exact.log_posterior[at] - law(at, **mutant)).abs().max()) > 1e-3
    testing.check_evidence(rules)


def test_what_is_not_known_of_the_head_is_averaged_over():
    """An ensemble by hand; a Gaussian within 0.02 of 200,000 draws of w (MacKay's approximation is
    off by less than that below 3 nats)."""
    members = torch.tensor([[0.0, 0.5, 0.0], [0.0, -0.5, 0.0]], dtype=torch.float64)
    found = po.RuleModel(Counts([0.0, 1.0, 0.0], members=members)).log_kept(["x"], ["a a"])
    assert float(found.exp()) == pytest.approx((sigmoid(3.0) + sigmoid(1.0)) / 2, abs=1e-12)
    root = torch.diag(torch.tensor([0.0, 0.8, 0.0], dtype=torch.float64))
    found = po.RuleModel(Counts([0.0, 1.0, 0.0], root=root)).log_kept(["x"], ["a a"])
    w = 1.0 + 0.8 * torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    assert float(found.exp()) == pytest.approx(float((2 * w).sigmoid().mean()), abs=0.02)
    assert abs(float(found.exp()) - sigmoid(2.0)) > 0.05


def test_each_rules_mean_is_logged():
    from posteriori.core.run.call_context import CallContext, calling_within

    prior = po.TabularLM.random(WORDS, 3, PROMPTS, seed=5)
    drawn = prior.sample(["x"], 20, 3, torch.Generator().manual_seed(0))
    with calling_within(CallContext()) as context:
        po.Rules({"one": po.RuleModel(ONE)}).score(drawn, {})
    kept = po.RuleModel(ONE).log_kept(drawn.prompts, drawn.texts).exp().mean()
    assert context.metrics == {"rule/one": pytest.approx(float(kept))}


def labels(rule: str, bad: str, num: int = 30) -> list[dict]:
    return [
        {
            "prompt": f"Plate {n} of the day",
            "completion": f" is {word} and so is the tea",
            "rule": rule,
            "violated": word == bad,
        }
        for n in range(num)
        for word in ("good", bad)
    ]


@pytest.mark.long
def test_they_are_learned_kept_and_loaded(tmp_path):
    rows = labels("no insults", "stupid") + labels("No insults!", "awful")
    fitted = po.fit_rules(
        "tiny", rows, epochs=4, learning_rate=1e-3, seed=0, output_dir=tmp_path / "r"
    )
    assert list(fitted.models) == ["no insults", "No insults!"]
    assert {each.name for each in (tmp_path / "r").iterdir()} == {
        "no-insults",
        "no-insults-2",
        "rules.json",
    }
    for rule, bad in (("no insults", "stupid"), ("No insults!", "awful")):
        texts = [f" is {word} and so is the tea" for word in ("good", bad)]
        broken = fitted.models[rule].violated(["Plate 999 of the day"] * 2, texts)
        assert broken[0] < 0.2 < 0.8 < broken[1]
        assert fitted.accuracy[rule].value > 0.9
    again = po.Rules(tmp_path / "r")
    one = po.Rules(fitted)
    lm = po.load("tiny")
    drawn = lm.sample(["The food is"], 5, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        again.score(drawn, {}).log_evidence, one.score(drawn, {}).log_evidence, rtol=0, atol=1e-5
    )


REFUSED = {
    "no rule": ({"rule": None}, "no 'rule'"),
    "a blank completion": ({"completion": "  "}, "'completion' is '  '"),
    "no label": ({"violated": "yes"}, "'violated' is 'yes'"),
    "a label of 2": ({"violated": 2}, "'violated' is 2"),
    "no prompt": ({"prompt": 3}, "'prompt' is '3'"),
    "the reference itself": ({"completion": REFERENCE}, "compared with"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_label_is_refused_by_its_row(name):
    change, message = REFUSED[name]
    rows = labels("polite", "bad", 2)
    rows[1] = {**rows[1], **change}
    with pytest.raises(DataError, match=message) as caught:
        po.fit_rules("tiny", rows, tuning="head")
    assert caught.value.where == "labels[1]"


def test_a_rule_that_nothing_breaks_is_refused():
    rows = [row for row in labels("polite", "bad", 3) if not row["violated"]]
    with pytest.raises(DataError, match="of 3 labels of the rule 'polite' none breaks it"):
        po.fit_rules("tiny", rows)
    with pytest.raises(DataError, match="no labels"):
        po.fit_rules("tiny", [])


def test_settings_of_the_product_are_checked(tmp_path):
    one = {"one": po.RuleModel(ONE)}
    with pytest.raises(ConfigError, match="there is no rule 'on'"):
        po.Rules(one, only=["on"])
    with pytest.raises(ConfigError, match="weight of 'one' is 0"):
        po.Rules(one, weights={"one": 0})
    with pytest.raises(ConfigError, match="function has no rules"):
        po.Rules(lambda completions, **_: 1)
    with pytest.raises(ModelError, match=r"no rules\.json"):
        po.Rules(tmp_path)
    assert list(po.Rules({**one, "two": po.RuleModel(TWO)}, only=["two"]).models) == ["two"]
