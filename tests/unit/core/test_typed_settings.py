"""Typed settings: as keywords, as one object, and as both."""

from __future__ import annotations

import pytest

import posteriori as po
from posteriori.core.registry import SAMPLERS, find
from posteriori.core.settings import keywords
from posteriori.errors import ConfigError


def target() -> po.Target:
    lm = po.TabularLM.random(["</s>", "a", "b"], 3, ["a"])
    reward = po.Reward(lambda completion_ids, **_: [float(len(y)) for y in completion_ids], 1.0)
    return po.Target(lm, reward, ["a"], 3)


def weights(fit: po.Fit) -> list[float]:
    return [float(p.detach().sum()) for p in fit.policy.module.parameters()]


@pytest.mark.parametrize("name", ["FitKeywords", "FitRewardKeywords", "FitTwistKeywords"])
def test_the_keywords_are_the_fields(name):
    model = getattr(po, name.replace("Keywords", "Config"))
    assert list(getattr(keywords, name).__annotations__) == list(model.model_fields)


def test_fit_by_an_object_is_fit_by_keywords():
    settings = {"steps": 3, "num_samples": 8, "learning_rate": 0.1, "seed": 5}
    by_name = po.fit(target(), "rloo", **settings)
    by_object = po.fit(target(), "rloo", config=po.FitConfig(**settings))
    some = {key: settings.pop(key) for key in ("steps", "seed")}
    by_both = po.fit(target(), "rloo", config=po.FitConfig(**some), **settings)
    assert weights(by_name) == weights(by_object) == weights(by_both)


def test_a_key_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match="'steps' is given twice, by config and by its name"):
        po.fit(target(), "rloo", config=po.FitConfig(steps=2), steps=2)
    with pytest.raises(ConfigError, match="'smooth' is given twice"):
        po.sample(target(), "importance", config=po.ImportanceConfig(smooth=True), smooth=True)


def test_an_object_of_another_algorithm_is_refused():
    with pytest.raises(ConfigError, match="config is a MHConfig, not a ImportanceConfig"):
        po.sample(target(), "importance", config=po.MHConfig())
    with pytest.raises(ConfigError, match="and an object was given"):
        po.sample(target(), find("sampler", "mh")(), config=po.MHConfig())


def test_settings_that_are_refused_are_config_errors():
    with pytest.raises(ConfigError, match=r"FitConfig: unknown key 'step'; did you mean 'steps'\?"):
        po.FitConfig(step=2)
    with pytest.raises(ConfigError, match="SMCConfig: 'replicates' = 0 is not valid"):
        po.SMCConfig(replicates=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_a_public_config(name):
    sampler = find("sampler", name)
    config = sampler.Settings
    assert getattr(po, config.__name__) is config
    made = sampler(config=config())
    assert made.settings == config()


def test_sample_by_an_object_is_sample_by_keywords():
    by_name = po.sample(target(), "mh", 32, chains=4, burn_in=5, thin=2)
    config = po.MHConfig(chains=4, burn_in=5, thin=2)
    by_object = po.sample(target(), "mh", 32, config=config)
    assert by_name.completion_ids == by_object.completion_ids


def test_objectives_take_an_object():
    settings = {"steps": 2, "num_samples": 8, "learning_rate": 0.1}
    by_name = po.fit(target(), "grpo", objective_settings={"clip": 0.1}, **settings)
    typed = find("objective", "grpo").Settings(clip=0.1)
    by_object = po.fit(target(), "grpo", objective_settings=typed, **settings)
    assert weights(by_name) == weights(by_object)
