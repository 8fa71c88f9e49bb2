"""Reports from Python: objects, runs, `report=True` and `overwrite=True`."""

from __future__ import annotations

import pytest

import posteriori as po
from posteriori.errors import CheckpointError, ConfigError
from posteriori.models.tabular import TabularLM


def reward(completions, **kwargs):
    return [float(len(text)) for text in completions]


@pytest.fixture
def target():
    table = TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=0, max_new_tokens=2)
    return po.Target(table, po.Reward(reward, beta=1.0), ["a", "b"], 2)


def settings(**more):
    return {"steps": 3, "num_samples": 4, "learning_rate": 0.1, **more}


def test_a_page_from_python_objects(target, tmp_path):
    fit = po.fit(target, "rloo", **settings())
    before = po.evaluate(target, target.prior, num_samples=200)
    after = po.evaluate(target, fit.policy, num_samples=200)
    curve = po.frontier(target, num_samples=200, stages=0)
    page = po.report(curve, prior=before, mine=after, path=tmp_path / "r.html", title="Warm")
    text = page.read_text()
    assert "mine" in text
    assert "Warm" in text
    assert po.report({"mine": after}, path=tmp_path / "s.html").exists()
    for wrong in (fit, 3):
        with pytest.raises(ConfigError, match="a page cannot show"):
            po.report(wrong)
    with pytest.raises(ConfigError, match="nothing to report on"):
        po.report()


def test_a_run_with_its_report(target, tmp_path):
    run = tmp_path / "run"
    fit = po.fit(target, "rloo", output_dir=run, report=True, **settings())
    assert (run / "report.html").exists()
    assert (run / "evaluation.json").exists()
    page = po.report(fit, path=tmp_path / "again.html")
    assert "not been evaluated" not in page.read_text()
    with pytest.raises(ConfigError, match="needs the run's output_dir"):
        po.fit(target, "rloo", report=True, **settings())


def test_a_run_that_was_not_evaluated_says_so(target, tmp_path):
    run = tmp_path / "run"
    po.fit(target, "rloo", output_dir=run, **settings())
    page = po.report(run, path=tmp_path / "r.html").read_text()
    assert "policy has not been evaluated" in page
    assert "was stopped" not in page


def test_overwriting_a_run(target, tmp_path):
    run = tmp_path / "run"
    po.fit(target, "rloo", output_dir=run, **settings())
    (run / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="already holds a run"):
        po.fit(target, "rloo", output_dir=run, **settings())
    with pytest.raises(ConfigError):  # nothing goes where the new run could not begin
        po.fit(target, "rloo", output_dir=run, overwrite=True, **settings(stepss=1))
    assert (run / "policy").exists()
    again = po.fit(target, "rloo", output_dir=run, overwrite=True, **settings(steps=2))
    assert len(again.history) == 2
    assert (run / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds files and no run"):
        po.fit(target, "rloo", output_dir=tmp_path / "other", overwrite=True, **settings())
