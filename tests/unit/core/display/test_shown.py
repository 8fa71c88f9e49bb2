"""Results at a prompt, in a notebook and as tables of other packages."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

import posteriori as po
from posteriori.errors import ConfigError
from posteriori.models.tabular import TabularLM


def reward(completions, **kwargs):
    return [float(len(text)) for text in completions]


@pytest.fixture
def target():
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "<b>"], seed=0, max_new_tokens=2)
    return po.Target(table, po.Reward(reward, beta=1.0), ["a", "<b>"], 2)


def things(target):
    fit = po.fit(target, "rloo", steps=2, num_samples=4, learning_rate=0.1)
    return {
        "Report": po.evaluate(target, target.prior, num_samples=100),
        "Draws": po.sample(target, "smc", num_samples=8),
        "Fit": fit,
        "Target": target,
        "Frontier": po.frontier(target, num_samples=100, stages=0),
    }


def test_a_repr_is_one_short_line(target):
    for name, each in things(target).items():
        told = repr(each)
        assert told.startswith(f"{name}(")
        assert len(told) < 250
        assert "tensor" not in told
        assert " at 0x" not in told


def test_html_has_the_table_and_the_plane_and_no_raw_text(target):
    every = things(target)
    for name in ("Report", "Draws", "Fit", "Frontier"):
        html = every[name]._repr_html_()
        assert "<table>" in html
        assert "<b>" not in html
    assert "<svg" in every["Report"]._repr_html_()
    assert "kl_to_target" in every["Report"]._repr_html_()
    assert "&lt;b&gt;" in po.sample(target.with_prompts(["<b>"]))._repr_html_()


def test_data_frames(target):
    pytest.importorskip("pandas")
    report = po.evaluate(target, target.prior, num_samples=10)
    frame = report.to_dataframe()
    of_reward = frame[frame.figure == "mean_reward"]
    assert of_reward.value.tolist()[0] == report["mean_reward"].value
    assert len(of_reward) == 3
    draws = po.sample(target, "smc", num_samples=8)
    frame = draws.to_dataframe()
    assert len(frame) == 16
    assert frame.groupby("prompt_index").weight.sum().tolist() == pytest.approx([1.0, 1.0])
    assert frame.completion.tolist() == draws.texts


def test_inference_data(target, monkeypatch):
    arviz = ModuleType("arviz_base")
    arviz.from_dict = lambda groups, dims: (groups, dims)
    monkeypatch.setitem(sys.modules, "arviz_base", arviz)
    groups, dims = po.sample(target, "smc", num_samples=8).to_inference_data()
    assert groups["posterior"]["reward"].shape == (4, 2, 2)
    assert dims["reward"] == ["prompt"]


def test_a_chain_of_inference_data_is_a_chain(target, monkeypatch):
    """Chains take their steps side by side, so that their draws are mixed."""
    monkeypatch.setattr(
        "posteriori.core.display.frames.needed",
        lambda *_: SimpleNamespace(__name__="arviz_base", from_dict=lambda groups, dims: groups),
    )
    draws = po.sample(target, "imh", num_samples=8, chains=4, burn_in=1)
    marked = replace(draws, reward_N=draws.group_N.double())
    reward = marked.to_inference_data()["posterior"]["reward"]
    assert reward.shape[:2] == (4, 2)
    assert (reward == reward[:, :1]).all()
    uneven = marked.select([0, 1, 2, 4, 5, 6, 7, 3]).select([0, 4, 1, 2, 3, 5])
    with pytest.raises(ConfigError, match="different numbers of draws"):
        uneven.to_inference_data()


@pytest.mark.parametrize("name", ["pandas", "arviz"])
def test_what_is_not_installed_is_named(target, monkeypatch, name):
    for module in ("pandas", "arviz", "arviz_base"):
        monkeypatch.setitem(sys.modules, module, None)
    draws = po.sample(target, num_samples=4)
    act = draws.to_dataframe if name == "pandas" else draws.to_inference_data
    with pytest.raises(ConfigError, match=f"needs the package '{name}'; pip install {name}"):
        act()


def test_generating_texts():
    lm = po.load("tiny")
    one = lm.generate("You are", max_new_tokens=4)
    assert one == lm.generate(["You are"], max_new_tokens=4)
    several = lm.generate(["You are", "My"], num_samples=3, max_new_tokens=4, seed=1)
    assert [len(each) for each in several] == [3, 3]
    with pytest.raises(ConfigError, match="no prompts"):
        lm.generate([])
