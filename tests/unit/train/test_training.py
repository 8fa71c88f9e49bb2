"""The loop's schedule, records and settings."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch

import posteriori as po
from posteriori.core.settings.training import FitConfig
from posteriori.errors import ConfigError
from posteriori.objectives.base import Objective
from posteriori.runs.directory import jsonable, read_metrics, write_whole
from posteriori.train.step_size.schedule import prompts_of_step, share_of_rate


def rates(**settings) -> list[float]:
    checked = FitConfig(steps=10, learning_rate=1.0, **settings)
    return [share_of_rate(checked, step) for step in range(10)]


def test_the_rate_warms_up_and_decays():
    assert rates(decay="none") == [1.0] * 10
    assert rates(decay="none", warmup_steps=4) == [0.25, 0.5, 0.75, 1.0] + [1.0] * 6
    assert rates(decay="linear") == pytest.approx([1 - step / 10 for step in range(10)])
    assert rates(decay="cosine")[5] == pytest.approx(0.5)
    both = rates(decay="linear", warmup_steps=5)
    assert both == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert all(rate > 0 for rate in rates(decay="cosine", warmup_steps=10))
    late = [1.0] * 6 + [0.8, 0.6, 0.4, 0.2]
    assert rates(decay="late") == pytest.approx(late)
    assert rates() == rates(decay="linear")
    auto = FitConfig(steps=10)
    assert [share_of_rate(auto, step) for step in range(10)] == pytest.approx(late)


def test_every_prompt_has_its_turn_once_an_epoch():
    steps = [prompts_of_step(7, 3, seed=0, step=step) for step in range(14)]
    assert all(len(chosen) == 3 for chosen in steps)
    places = [prompt for chosen in steps for prompt in chosen]
    for epoch in range(6):
        assert sorted(places[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert len({tuple(places[7 * e : 7 * e + 7]) for e in range(6)}) > 1, "epochs are shuffled"
    assert (
        prompts_of_step(7, 3, seed=1, step=0) != steps[0]
        or prompts_of_step(7, 3, seed=2, step=0) != steps[0]
    )


def test_all_prompts_come_in_order_where_they_fit():
    assert prompts_of_step(3, 3, seed=0, step=5) == [0, 1, 2]
    assert prompts_of_step(3, 9, seed=0, step=5) == [0, 1, 2]


def flat(completions, **kwargs):
    return [float(len(text)) for text in completions]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(flat, beta=1.0), table.prompts, 3)


def test_a_record_holds_what_a_step_did(target):
    seen = []
    fitted = po.fit(target, "rloo", steps=4, num_samples=8, on_step=seen.append)
    assert fitted.history == seen
    assert [record["step"] for record in seen] == [0, 1, 2, 3]
    first = seen[0]
    assert first["draws"] == 16
    assert first["kl_to_prior"] == 0.0, "the policy starts as the prior"
    assert first["lm_tokens"] > 0
    for key in ("loss", "elbo", "mean_reward", "entropy", "grad_norm", "seconds"):
        assert math.isfinite(first[key])
    # ELBO = E[r]/beta - KL(pi, prior), on the same draws.
    for record in seen:
        assert record["elbo"] == pytest.approx(record["mean_reward"] - record["kl_to_prior"])


def test_a_subset_of_prompts_makes_a_step(target):
    fitted = po.fit(target, "rloo", steps=4, num_samples=8, prompts_per_step=1)
    assert [record["draws"] for record in fitted.history] == [8] * 4


def test_the_gradient_is_clipped_and_its_norm_recorded_before(target):
    def change(limit):
        fitted = po.fit(target, "rloo", steps=1, num_samples=8, max_grad_norm=limit)
        return fitted.history[0]["grad_norm"]

    assert change(1e-3) == change(None) > 1e-3


def test_weight_decay_pulls_the_weights(target):
    def norm(decay):
        fitted = po.fit(
            target, "rloo", steps=5, num_samples=8, learning_rate=0.1, weight_decay=decay
        )
        return float(fitted.policy.trained_state()["logits"].norm())

    assert norm(1.0) < norm(0.0)


def test_an_objective_may_be_an_object(target):
    class Halved(Objective):
        name = "halved"

        def weigh(self, draws, log_prob_N):
            return {"half_N": torch.full_like(log_prob_N, 0.5)}

        def loss(self, token_log_prob_nL, constants):
            return constants["half_N"] * token_log_prob_nL.sum(-1)

    assert len(po.fit(target, Halved(), steps=2, num_samples=2).history) == 2
    with pytest.raises(ConfigError, match=r"objective_settings go with the objective's name"):
        po.fit(target, Halved(), objective_settings={"x": 1}, steps=2)
    with pytest.raises(ConfigError, match=r"'halved' cannot use draws of earlier steps"):
        po.fit(target, Halved(), steps=2, replay=3)


def test_an_objectives_settings_are_checked(target):
    with pytest.raises(ConfigError, match=r"unknown key 'propsal'; did you mean 'proposal'\?"):
        po.fit(target, "rloo", objective_settings={"propsal": "prior"}, steps=2)


def test_replayed_draws_join_a_step(target):
    fitted = po.fit(target, "rloo", steps=4, num_samples=4, replay=2)
    plain = po.fit(target, "rloo", steps=4, num_samples=4)
    assert fitted.history[0] == plain.history[0] | {
        key: fitted.history[0][key] for key in ("seconds", "draw_seconds")
    }
    passes = [each["lm_tokens"] - plain.history[0]["lm_tokens"] for each in fitted.history]
    assert passes[0] == 0
    assert passes[3] > passes[1] > 0
    assert [each["draws"] for each in fitted.history] == [8] * 4, "fresh ones"


def test_a_run_directory_holds_what_the_run_was(target, tmp_path):
    fitted = po.fit(
        target, "rloo", steps=4, num_samples=4, seed=3, output_dir=tmp_path, config={"note": "x"}
    )
    assert fitted.output_dir == tmp_path
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["objective"], config["seed"], config["note"]) == ("rloo", 3, "x")
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert {"python", "torch", "transformers"} <= versions.keys()
    assert read_metrics(tmp_path / "metrics.jsonl") == fitted.history
    assert (tmp_path / "policy").is_dir()
    leftovers = [path.name for path in tmp_path.rglob("*incoming*")]
    assert leftovers == []


def test_json_gets_no_bare_infinities():
    line = jsonable({"a": math.inf, "b": [-math.inf, 1.0], "c": (math.nan,), "d": {"e": 2}})
    assert line == {"a": "inf", "b": ["-inf", 1.0], "c": ["nan"], "d": {"e": 2}}
    json.dumps(line, allow_nan=False)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_draws_of_different_steps_are_different(target):
    seen = []

    def keep(completions, **kwargs):
        seen.append(tuple(completions))
        return flat(completions)

    same_policy = po.Target(target.prior, po.Reward(keep, beta=1.0), target.prompts, 3)
    po.fit(same_policy, "rloo", steps=5, num_samples=16, learning_rate=1e-12)
    assert max(Counter(seen).values()) == 1


def test_a_first_rate_needs_a_search_for_the_rate(target):
    with pytest.raises(ConfigError, match="first_rate does nothing without learning_rate"):
        po.fit(target, "rloo", steps=1, learning_rate=1e-3, first_rate=1e-2)
