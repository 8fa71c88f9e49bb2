"""`posteriori fit` with a budget in place of beta, and with evaluation on the way."""

from __future__ import annotations

import importlib.util
import json

import pytest

from posteriori.core.types import Finding


@pytest.fixture
def budget(job):
    """The job with a budget where its beta was."""
    job.change("beta = 0.5\n", "")
    job.change("steps = 4", "steps = 4\nkl_budget = 0.05\nbudget_samples = 400")
    return job


def test_the_beta_of_a_budget_is_printed_recorded_and_used(budget):
    early = budget.sample("--num-samples", "4", "-o", str(budget.folder / "draws.jsonl"))
    assert early.code == 2
    assert "kl_budget replaces beta, and no run has found it yet" in early.err
    done = budget.fit()
    assert done.code == 0
    found = json.loads((budget.output / "config.json").read_text())["budget"]
    assert f"kl_budget: beta {found['beta']:.4g}, for which the frontier has KL 0.05" in done.err
    assert found["kl"] == pytest.approx(0.05)
    # A second evaluation, by the beta of the run's folder, is that of the run itself.
    of_run = json.loads((budget.output / "evaluation.json").read_text())["policies"]["rloo"]
    later = budget.evaluate("--json").json["policies"]["policy"]
    assert later["figures"]["log_z"]["value"] == of_run["figures"]["log_z"]["value"]
    again = budget.fit("--resume")
    assert again.code == 0
    assert json.loads((budget.output / "config.json").read_text())["budget"] == found
    assert budget.sample("--num-samples", "4", "-o", str(budget.folder / "draws.jsonl")).code == 0


def test_the_frontier_needs_no_beta(budget, cli):
    told = cli("frontier", str(budget.config), "--num-samples", "400", "--kl", "0.03", "--json")
    asked = told.json["asked"]["KL 0.03"]
    assert asked["kl"]["value"] == pytest.approx(0.03)


@pytest.mark.usefixtures("nothing_loads")
class TestRefused:
    def test_a_beta_beside_a_budget(self, job):
        job.change("steps = 4", "steps = 4\nkl_budget = 1.0")
        assert "'beta' = 0.5 is given beside a budget of 'fit'; remove beta" in job.fit().error

    def test_two_budgets(self, budget):
        budget.change("kl_budget = 0.05", "kl_budget = 0.05\nreward_target = 1.0")
        assert "both kl_budget and reward_target are given" in budget.fit().error

    def test_no_beta_and_no_budget(self, job):
        job.change("beta = 0.5\n", "")
        assert "'beta' is missing" in job.fit().error

    def test_a_tracker_that_is_not_installed(self, job, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a: None if name == "wandb" else find(name, *a),
        )
        job.change("steps = 4", 'steps = 4\ntracker = "wandb"')
        assert job.fit().error.endswith(
            "the tracker 'wandb' is not installed; pip install 'posteriori[wandb]'"
        )

    def test_held_out_prompts_that_nothing_looks_at(self, job):
        job.change("steps = 4", 'steps = 4\nheld_out = "prompts.jsonl"')
        assert "held_out does nothing without evaluate_every" in job.fit().error

    def test_held_out_prompts_with_other_columns(self, job):
        job.change("steps = 4", 'steps = 4\nevaluate_every = 2\nheld_out = ["a"]')
        assert "the held-out prompts have other columns than the prompts" in job.fit().error

    def test_what_would_run_is_told(self, budget):
        budget.change("steps = 4", "steps = 4\nevaluate_every = 2")
        told = budget.fit("--dry-run")
        assert told.code == 0
        assert "400 draws of the prior per prompt to find the beta of kl_budget = 0.05" in told.out
        assert "judged every 2 steps on 2 prompts" in told.out


def test_evaluations_are_written_and_shown(job):
    job.write("held_out.jsonl", '{"prompt": "d", "weight": 1}\n')
    job.change("steps = 4", 'steps = 4\nevaluate_every = 2\nheld_out = "held_out.jsonl"')
    done = job.fit()
    assert done.code == 0
    text = (job.output / "evaluations.jsonl").read_text()
    lines = [json.loads(each) for each in text.splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert all(len(line["elbo"]["per_prompt"]) == 1 for line in lines)
    shown = float(lines[1]["kl_to_target"]["value"])
    assert f"KL to target {shown:.3g} ± " in done.err
    job.write("held_out.jsonl", '{"prompt": "e", "weight": 1}\n')
    assert "was made with prompts_sha256" in job.fit("--resume").err


def test_a_run_that_goes_wrong_ends_with_its_reason_and_code_1(job, monkeypatch):
    wrong = Finding("stop", "diverging", "It is rising.")
    monkeypatch.setattr(
        "posteriori.train.monitor.periodic_evaluation.stopping_findings",
        lambda lines: [wrong] * (len(lines) > 1),
    )
    job.change("steps = 4", 'steps = 4\nevaluate_every = 1\non_finding = "stop"')
    done = job.fit()
    assert done.code == 1
    assert "[stop] It is rising." in done.err
    assert "stopped early: [stop] It is rising." in done.out
    assert len((job.output / "metrics.jsonl").read_text().splitlines()) == 1
    evaluation = json.loads((job.output / "evaluation.json").read_text())
    assert evaluation["stopped"]["name"] == "diverging"
    assert (job.output / "policy").is_dir()
