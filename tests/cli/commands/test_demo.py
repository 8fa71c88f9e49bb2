"""`posteriori demo --quick`: the whole way, a few steps of it."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import posteriori as po
from posteriori.cli.commands.demo.fits import Job, fit_all
from posteriori.cli.commands.demo.plan import FULL, QUICK, Trial, make_room, offensiveness, trials
from posteriori.cli.commands.demo.words import conclusion
from posteriori.core.types import Estimate
from posteriori.diagnostics.frontier.best_of_n_points import BestOfN
from posteriori.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.long

POLICIES = ["prior", "rl", "soft_q, beta 0.1", "soft_q, beta 0.03"]


@pytest.fixture
def small_scale(monkeypatch):
    """Two prompts and the fewest draws: what is tested is the way, not the figures."""
    monkeypatch.setattr(
        "posteriori.cli.commands.demo.demo.QUICK",
        replace(QUICK, num_samples=2, judged_by=4, max_new_tokens=4, steps=1, alone_steps=1),
    )
    monkeypatch.setattr(
        "posteriori.cli.commands.demo.demo.prompts", lambda: ["I think you are", "You look like"]
    )


def test_the_demo_and_the_demo_again(cli, tmp_path, small_scale):
    folder = tmp_path / "demo"
    (folder / "rl-notes").mkdir(parents=True)
    (folder / "rl-notes" / "mine.txt").write_text("mine")
    first = cli("demo", "--quick", "--output-dir", str(folder))
    assert first.code == 0, first.err
    assert first.out.splitlines()[1].split("  ")[-1].strip() == POLICIES[-1]
    for words in (
        "the prior's KL to that target",
        "mean P(offensive)",
        "KL to target, nats",
        "±",
        "target of this column",
    ):
        assert words in first.out
    assert "The prior's mean P(offensive) is" in first.out
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert list(evaluation["policies"]) == POLICIES
    assert evaluation["beta_of_target"]["rl"] == 0.03
    assert "<html" in (folder / "report.html").read_text()
    assert po.load(folder / "rl" / "policy").adapter is None
    assert not (folder / "rl" / "checkpoints").exists()

    again = cli("demo", "--quick", "--output-dir", str(folder), "--json", "--quiet")
    assert again.code == 0, again.err
    assert again.err == ""
    assert list(again.json["policies"]) == POLICIES
    set_aside = json.loads((folder / "earlier-1" / "evaluation.json").read_text())
    assert set_aside["policies"].keys() == evaluation["policies"].keys()
    assert (folder / "rl-notes" / "mine.txt").read_text() == "mine"


def test_without_the_classifier_it_says_what_to_install(cli, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("profanity_check"):
            raise ModuleNotFoundError("No module named 'profanity_check'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    result = cli("demo", "--output-dir", str(tmp_path / "demo"))
    assert result.code == 2
    assert result.error == (
        "demo: the demo's classifier is not installed (No module named 'profanity_check'); "
        "pip install 'posteriori[demo]'"
    )
    assert not (tmp_path / "demo").exists()


def test_a_file_in_the_way(cli, tmp_path):
    (tmp_path / "demo").write_text("mine")
    result = cli("demo", "--output-dir", str(tmp_path / "demo"))
    assert result.code == 2
    assert result.error == f"'{tmp_path}/demo' is a file; choose another --output-dir"


def test_earlier_runs_are_numbered(tmp_path):
    for _ in range(3):
        make_room(tmp_path)
        (tmp_path / "report.html").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "earlier-1",
        "earlier-2",
        "report.html",
    ]


def test_the_reward_is_a_probability_with_its_sign_turned():
    polite, rude = offensiveness()(completions=["what a lovely day", "you stupid idiot"])
    assert -1 <= rude < -0.9 < -0.5 < polite <= 0


def test_fits_side_by_side_are_those_of_one_process(tmp_path, capsys):
    pytest.importorskip("profanity_check")
    scale = replace(QUICK, num_samples=2, max_new_tokens=3, steps=1, alone_steps=1)
    both = [trial for trial in trials(scale) if trial.beta == scale.betas[-1]]

    def fitted(workers):
        folder = tmp_path / str(workers)
        jobs = [Job(t, scale, ("You look like",), folder / t.folder, 0) for t in both]
        return fit_all(jobs, workers, quiet=False)

    alone, beside = fitted(1), fitted(2)
    lines = capsys.readouterr().err
    assert list(alone) == list(beside) == [trial.name for trial in both]
    for name, fit in alone.items():
        weights = fit.policy.module.state_dict()
        others = beside[name].policy.module.state_dict()
        assert all(torch.equal(tensor, others[key]) for key, tensor in weights.items())
        assert fit.history[0]["loss"] == beside[name].history[0]["loss"]
        assert lines.count(f"{name}: step 1/1") == 2


def test_an_error_in_one_process_ends_them_all(tmp_path):
    pytest.importorskip("profanity_check")
    scale = replace(QUICK, num_samples=2, max_new_tokens=3, steps=1, alone_steps=1)
    jobs = [Job(t, scale, ("You look like",), tmp_path / "one", 0) for t in trials(scale)[:2]]
    with pytest.raises(CheckpointError, match="one"):
        fit_all(jobs, 2, quiet=True)


def _report(entropy: float, unique: float, kl: float) -> Any:
    figures = {
        "entropy": entropy,
        "unique_fraction": unique,
        "kl_to_target": kl,
        "mean_reward": -1,
        "kl_to_prior": 0.3,
    }
    return {name: Estimate(value, 0.01, "unbiased", 100) for name, value in figures.items()}


def _concluded(**changed) -> str:
    reports = {
        "prior": _report(20, 0.9, 5),
        "rl": _report(0.5, 0.01, 15),
        "soft_q, beta 0.1": _report(19, 0.8, 0.3),
        "soft_q, beta 0.03": _report(18, 0.8, 0.9),
    } | {name: _report(*figures) for name, figures in changed.items()}
    named: dict[str, Trial] = {trial.name: trial for trial in trials(FULL)}
    distances = {beta: Estimate(5.0 + beta, 0.1, "consistent", 100) for beta in FULL.betas}
    best = [
        BestOfN(n, Estimate(kl, 0.0, "exact", 100), Estimate(reward, 0.01, "consistent", 100))
        for n, kl, reward in ((2, 0.19, -3.0), (4, 0.64, -0.5))
    ]
    return conclusion(named, reports, distances, best)


def test_the_conclusion_is_worked_out_from_the_figures():
    shown = _concluded()
    assert "rl brought it to 1.000 and collapsed: entropy 20.0 -> 0.5 nats" in shown
    assert "soft_q, beta 0.1 brought it to 1.000 and did not collapse" in shown
    assert "0.300 ± 0.010 nats from the target at beta 0.1, where the prior is 5.10 away" in shown
    assert "So reward alone collapsed" in shown
    assert (
        "soft_q, beta 0.1 spends 0.300 ± 0.010 nats of KL from the prior; for as much reward "
        "best-of-n takes n = 4, which is 0.64." in shown
    )
    assert "does not show" in _concluded(rl=(10, 0.5, 15))
    assert "does not show" in _concluded(rl=(0.5, 0.01, 0.5))
    assert "does not show" in _concluded(**{"soft_q, beta 0.1": (0.5, 0.01, 0.3)})


def test_a_missing_extra_is_an_error_of_its_own(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "profanity_check", None)
    with pytest.raises(ConfigError, match=r"pip install 'posteriori\[demo\]'"):
        offensiveness()
