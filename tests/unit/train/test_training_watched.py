"""Evaluation while training: what it finds, what it leaves alone, and when it stops a run."""

from __future__ import annotations

import json
import math
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import tiny_lm
from objective_cases import CASES

import posteriori as po
from posteriori.core.seeds import derive
from posteriori.core.settings.training import FitConfig
from posteriori.errors import ConfigError, EvidenceError
from posteriori.runs.directory import read_metrics
from posteriori.train.monitor.early_stopping import RISES, stopping_findings
from posteriori.train.monitor.evaluator import FIGURES, Evaluator, evaluation_samples

Z = 4.9
"""Standard errors that a normal estimate passes with a chance of 1e-6."""


def lengths(completions, **kwargs):
    return [float(len(text)) for text in completions]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(lengths, beta=1.0), table.prompts, 3)


def fit(target, objective="rloo", **settings):
    settings = {"steps": 10, "num_samples": 8, "learning_rate": 0.1} | settings
    return po.fit(target, objective, **settings)


def without_seconds(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def noisy(completions, **kwargs):
    """A reward that draws from every global stream, as a user's may."""
    return [random.random() + np.random.rand() + float(torch.rand(())) for _ in completions]


@pytest.mark.moves_rng
@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_run_is_the_same_with_and_without_it(policy):
    prior = tiny_lm("gpt2")
    target = po.Target(prior, po.Reward(noisy, beta=1.0), ["a b", "c"], 3)

    def run(**settings):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return fit(target, steps=4, learning_rate=1e-2, policy=policy, **settings)

    plain, watched = run(), run(evaluate_every=1, evaluate_samples=16, held_out=["d", "e a"])
    assert len(watched.evaluations) == 5
    for name, tensor in plain.policy.trained_state().items():
        assert torch.equal(tensor, watched.policy.trained_state()[name])
    same = [
        {k: v for k, v in record.items() if "seconds" not in k}
        for fitted in (plain, watched)
        for record in fitted.history
    ]
    assert same[:4] == same[4:], "nor does it show in the steps' records"


def test_the_figures_are_those_of_evaluate_and_near_the_exact_ones(case_1):
    target = case_1.target(0.5)
    fitted = fit(
        target, steps=20, learning_rate=3e-3, evaluate_every=10, evaluate_samples=500, seed=3
    )
    assert [line["step"] for line in fitted.evaluations] == [0, 10, 20]
    last = fitted.evaluations[-1]
    again = po.evaluate(
        target,
        fitted.policy,
        500,
        derive(3, "watch", 20),
        prior_draws=Evaluator(target, 500, 3).prior_draws,
    )
    for name in FIGURES:
        assert last[name]["value"] == again[name].value
        assert len(last[name]["per_prompt"]) == 3
    exact = po.exact(target)
    start, end = exact.evaluate(target.prior), exact.evaluate(fitted.policy)
    for line, truth in [(fitted.evaluations[0], start), (last, end)]:
        for name in ("kl_to_target", "elbo", "kl_to_prior", "entropy", "mean_reward"):
            figure = line[name]
            gap = abs(figure["value"] - float(np.mean(truth[name])))
            assert gap <= Z * figure["standard_error"] + 1e-6, name
    assert end["kl_to_target"].mean() < start["kl_to_target"].mean()


def test_the_prior_is_drawn_from_and_judged_once(table):
    asked = []

    def counted(completions, **kwargs):
        asked.append(len(completions))
        return lengths(completions)

    evaluator = Evaluator(po.Target(table, po.Reward(counted, beta=1.0), table.prompts, 3), 32, 0)
    for step in range(3):
        evaluator.look(table.as_policy("full", FitConfig(steps=1).lora, 0), step)
    assert asked == [64] * 4, "three times the policy's draws, once the prior's"


class TestHeldOut:
    def test_prompts_are_those_that_are_judged(self, gpt2):
        target = po.Target(gpt2, po.Reward(lengths, beta=1.0), ["a"], 3)
        seen = set()

        def note(completions, prompts, **kwargs):
            seen.update(prompts)
            return lengths(completions)

        held_out = po.Target(gpt2, po.Reward(note, beta=1.0), ["b", "c d"], 3)
        fitted = fit(target, steps=2, evaluate_every=1, held_out=held_out, learning_rate=1e-3)
        assert seen == {"b", "c d"}
        assert all(len(line["elbo"]["per_prompt"]) == 2 for line in fitted.evaluations)

    def test_columns_come_with_them(self, gpt2):
        def weighed(completions, weight, **kwargs):
            return [w * len(text) for w, text in zip(weight, completions, strict=True)]

        target = po.Target(gpt2, po.Reward(weighed, beta=1.0), ["a"], 3, {"weight": [1.0]})
        with pytest.raises(ConfigError, match=r"columns \(weight\), and held_out has none"):
            fit(target, steps=1, evaluate_every=1, held_out=["b"])
        others = target.with_prompts(["b", "c"], {"weight": [0.0, 0.0]})
        fitted = fit(target, steps=1, evaluate_every=1, held_out=others, learning_rate=1e-3)
        assert all(line["mean_reward"]["value"] == 0.0 for line in fitted.evaluations)

    def test_another_prior_is_refused(self, target, gpt2):
        other = po.Target(gpt2, po.Reward(lengths, beta=1.0), ["b"], 3)
        with pytest.raises(ConfigError, match="held_out has another prior"):
            fit(target, evaluate_every=1, held_out=other)

    @pytest.mark.parametrize(
        "settings",
        [{"held_out": ["x"]}, {"evaluate_samples": 10}, {"on_finding": "stop"}],
        ids=str,
    )
    def test_what_would_do_nothing_is_refused(self, target, settings):
        with pytest.raises(ConfigError, match="does nothing without evaluate_every"):
            fit(target, **settings)


class TestLines:
    SETTINGS: ClassVar = {"evaluate_every": 2, "checkpoint_every": 4, "evaluate_samples": 16}

    def test_a_resumed_run_has_the_lines_of_one_that_never_stopped(self, target, tmp_path):
        whole = fit(target, output_dir=tmp_path / "whole", **self.SETTINGS)
        for died_at in (0, 3, 5, 9):

            def die(record, at=died_at):
                if record["step"] == at:
                    raise OSError("the machine is gone")

            run = tmp_path / f"died-{died_at}"
            with pytest.raises(OSError, match="gone"):
                fit(target, output_dir=run, on_step=die, **self.SETTINGS)
            # A line of a step that is made again, and one that was cut short.
            with (run / "evaluations.jsonl").open("a") as file:
                file.write(json.dumps(whole.evaluations[-1]) + '\n{"step": 1')
            again = fit(target, output_dir=run, resume=True, **self.SETTINGS)
            assert without_seconds(again.evaluations) == without_seconds(whole.evaluations)
            assert read_metrics(run / "evaluations.jsonl") == again.evaluations
            assert torch.equal(again.policy.logits, whole.policy.logits)
        finished = fit(target, output_dir=tmp_path / "whole", resume=True, **self.SETTINGS)
        assert finished.evaluations == whole.evaluations

    def test_an_evaluation_that_failed_is_made_when_the_run_goes_on(self, target, tmp_path):
        asked = []

        def fails(completions, trainer_state=None, **kwargs):
            asked.append(trainer_state.global_step)
            if len(asked) == 4:
                raise RuntimeError("no connection")
            return lengths(completions)

        held_out = po.Target(target.prior, po.Reward(fails, beta=1.0), target.prompts, 3)
        settings = {"output_dir": tmp_path, "held_out": held_out, **self.SETTINGS}
        with pytest.raises(EvidenceError, match="no connection"):
            fit(target, **settings)
        assert asked == [0, 0, 2, 4], "the evidence is told the step"
        again = fit(target, resume=True, **settings)
        assert [line["step"] for line in again.evaluations] == [0, 2, 4, 6, 8, 10]

    def test_they_are_json_even_where_a_figure_is_infinite(self, table, tmp_path):
        hard = po.Target(
            table,
            po.Constraint(lambda completions: [bool(t) for t in completions]),
            table.prompts,
            3,
        )
        fit(hard, "dpg", steps=2, evaluate_every=1, output_dir=tmp_path)
        line = (tmp_path / "evaluations.jsonl").read_text().splitlines()[0]
        assert json.loads(line, parse_constant=pytest.fail)["kl_to_target"]["value"] == "inf"


def line(step, kl, error=0.01, findings=(), **others):
    figures = {"kl_to_target": kl, "entropy": 1.0, "kl_to_prior": 1.0} | others
    told = {name: {"value": v, "standard_error": error} for name, v in figures.items()}
    return {"step": step, **told, "findings": list(findings)}


def names(lines):
    return [finding.name for finding in stopping_findings(lines)]


class TestAlarms:
    def test_a_distance_that_keeps_rising_beyond_its_errors(self):
        rising = [line(step, 0.1 * step) for step in range(1 + RISES)]
        assert names(rising) == ["diverging"]
        assert names([line(0, 5.0), *rising]) == ["diverging"], "however it began"
        assert names(rising[1:]) == [], "not yet"
        assert names([*rising, line(9, 0.2)]) == [], "no longer"
        assert names([line(step, 0.1 * step, error=0.04) for step in range(4)]) == []
        assert names([line(step, 0.1 * step, error=math.inf) for step in range(4)]) == []

    def test_standing_still_is_no_alarm(self):
        """A bound of 1e-9 on a false alarm; of a million runs none."""
        rng = np.random.default_rng(0)
        kl = rng.normal(size=(1_000_000, RISES + 1))
        rises = np.diff(kl, axis=1) > 2.0 * math.sqrt(2)
        assert not rises.all(axis=1).any()

    def test_what_is_not_finite(self):
        assert names([line(0, math.nan)]) == ["not_finite"]
        assert names([line(0, 1.0, entropy="inf")]) == ["not_finite"]
        assert names([line(0, "inf")]) == [], "hard evidence rules draws out"

    def test_findings_of_level_stop_that_two_evaluations_share(self):
        stop = {"level": "stop", "name": "gone", "message": "All gone.", "hint": ""}
        warn = stop | {"level": "warn"}
        assert names([line(0, 1.0, findings=[stop])]) == []
        assert names([line(0, 1.0, findings=[stop]), line(1, 1.0, findings=[stop])]) == ["gone"]
        assert names([line(0, 1.0, findings=[warn]), line(1, 1.0, findings=[warn])]) == []
        assert names([line(0, 1.0, findings=[stop]), line(1, 1.0)]) == []
        assert names([]) == []


class TestOnFinding:
    """Reward alone: the distance to the posterior rises once the policy has passed it."""

    SETTINGS: ClassVar = {
        "objective": "rl",
        "steps": 60,
        "num_samples": 32,
        "decay": "none",
        "evaluate_every": 5,
        "evaluate_samples": 400,
    }

    @pytest.fixture
    def target(self, table) -> po.Target:
        return po.Target(table, po.Reward(lengths, beta=3.0), table.prompts, 3)

    def test_stop_ends_the_run_and_keeps_it(self, target, tmp_path):
        notes = []
        settings = self.SETTINGS | {"on_finding": "stop", "on_note": notes.append}
        fitted = fit(target, output_dir=tmp_path, **settings)
        assert fitted.stopped.name == "diverging"
        assert notes == [str(fitted.stopped)]
        steps = len(fitted.history)
        assert 15 <= steps < 60
        assert fitted.evaluations[-1]["step"] == steps
        kept = po.TabularLM.from_pretrained(tmp_path / "policy")
        assert torch.equal(kept.logits, fitted.policy.logits)
        assert (tmp_path / "checkpoints" / f"step-{steps:08d}").is_dir()
        exact = po.exact(target)
        assert exact.evaluate(fitted.policy)["kl_to_target"].mean() > 0.1
        again = fit(target, output_dir=tmp_path, resume=True, **settings)
        assert again.stopped == fitted.stopped, "it stays stopped"
        assert len(again.history) == steps

    def test_warn_says_it_once_and_off_never(self, target):
        for on_finding, said in (("warn", 1), ("off", 0)):
            notes = []
            fitted = fit(target, **self.SETTINGS, on_finding=on_finding, on_note=notes.append)
            assert (len(notes), len(fitted.history)) == (said, 60)
            assert fitted.stopped is None

    def test_a_run_that_goes_well_is_not_stopped(self, target):
        fitted = fit(target, **self.SETTINGS | {"objective": "rloo"}, on_finding="stop")
        assert fitted.stopped is None
        assert len(fitted.history) == 60


def test_the_default_number_of_draws_is_a_share_of_those_trained_on():
    settings = FitConfig(steps=100, num_samples=16, evaluate_every=50)
    assert evaluation_samples(settings, 8, 8) == 50 * 16 // 25
    assert evaluation_samples(settings, 8, 2) == 4 * 50 * 16 // 25
    assert evaluation_samples(settings, 8, 1000) == 8, "and never fewer than this"
    some = FitConfig(steps=100, num_samples=16, evaluate_every=50, prompts_per_step=2)
    assert evaluation_samples(some, 8, 8) == 50 * 16 // 100
    assert evaluation_samples(settings.model_copy(update={"evaluate_samples": 7}), 8, 8) == 7


@pytest.mark.parametrize("name", sorted({case.name for case in CASES}))
def test_every_objective_records_the_same_figures(name, target):
    record = fit(target, name, steps=1).history[0]
    for figure in ("elbo", "kl_to_prior", "entropy", "mean_reward", "grad_norm", "effective_draws"):
        assert math.isfinite(record[figure]), figure
    assert 1.0 <= record["effective_draws"] <= 8.0
