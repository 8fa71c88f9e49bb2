"""`posteriori report`: pages, cards and numbers from runs' files, without a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from posteriori.report.safe_text import number


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where a finished run is kept for the tests of this module."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def run(job, finished):
    """A finished run's folder; trained once and copied for each test."""
    kept = finished / "one"
    if not kept.exists():
        result = job.fit("--quiet", "--set", "evaluate.num_samples=100")
        assert result.code == 0, result.err
        shutil.copytree(job.output, kept)
    elif not job.output.exists():
        shutil.copytree(kept, job.output)
    return job.output


def test_the_page_that_fit_wrote_is_the_page_of_its_files(job, run, nothing_loads):
    by_fit = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    result = job.run("report", str(run))
    assert result.code == 0, result.err
    assert "nats from its posterior" in result.out
    assert result.out.splitlines()[-1] == str(run / "report.html")
    assert (run / "report.html").read_bytes() == by_fit


def test_a_run_is_enough_for_its_report_anywhere(job, run, nothing_loads, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere" / "one"
    shutil.copytree(run, elsewhere, ignore=shutil.ignore_patterns("policy", "checkpoints"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert job.run("report", "one", "-o", "page.html").code == 0
    page = (tmp_path / "elsewhere" / "page.html").read_text()
    assert page == (run / "report.html").read_text()


def test_several_runs_go_side_by_side(job, run, tmp_path, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["evidence"][0]["beta"] = 0.25
    (other / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    result = job.run("report", str(run), str(other), "--json")
    assert result.code == 0
    assert list(result.json["policies"]) == ["prior", "one", "other"]
    assert result.json["output"] == ["report.html"]
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_samplers_stand_beside_a_run(job, run, tmp_path, monkeypatch, request, suffix):
    """`sample` leaves all that `report` needs, in every format; no model is loaded for it."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow.parquet")
    named = [tmp_path / f"{name}.{suffix}" for name in ("best_of_n", "soft_best_of_n")]
    for path in named:
        drawn = job.sample("-o", str(path), "--sampler", path.stem, "--num-samples", "40", "-q")
        assert drawn.code == 0, drawn.err
    request.getfixturevalue("nothing_loads")
    monkeypatch.chdir(tmp_path)
    result = job.run("report", str(run), *map(str, named), "--json")
    assert result.code == 0, result.err
    assert list(result.json["policies"]) == ["prior", "rloo"]
    best, soft = result.json["samplers"].values()
    assert (best["guarantee"], best["why_not_in_plane"]) == ("heuristic", None)
    assert {"mean_reward", "kl_to_prior"} <= best["figures"].keys()
    assert soft["why_not_in_plane"] == "a law of its own, whose KL to the prior is not known"
    page = Path("report.html").read_text()
    assert "best_of_n: KL to the prior" in page
    for form, name in (("markdown", "page.md"), ("csv", "figures")):
        asked = ("report", str(run), *map(str, named), "--format", form, "-o", name)
        assert job.run(*asked).code == 0
    assert "## Samplers" in Path("page.md").read_text()
    lines = Path("figures/plane.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "policy",
        "prior",
        "rloo",
        "best_of_n",
        "soft_best_of_n",
    ]
    assert lines[3].split(",")[-2:] == ["heuristic", ""]
    card = job.run("report", str(run), str(named[0]), "--format", "model-card", "-o", "card.md")
    assert card.code == 0


def test_draws_alone_are_reported_in_this_folder(job, tmp_path, monkeypatch):
    path = tmp_path / "draws.jsonl"
    assert job.sample("-o", str(path), "--num-samples", "60", "-q").code == 0
    monkeypatch.chdir(tmp_path)
    result = job.run("report", "draws.jsonl")
    assert result.code == 0, result.err
    first, last = result.out.splitlines()
    assert first.startswith("The draws of importance have a mean reward of ")
    assert last == "report.html"


def test_draws_of_another_config_are_refused(job, run, tmp_path):
    path = tmp_path / "draws.jsonl"
    job.change("max_new_tokens = 3", "max_new_tokens = 2")
    assert job.sample("-o", str(path), "--num-samples", "5", "-q").code == 0
    result = job.run("report", str(run), str(path), "-o", str(tmp_path / "page.html"))
    assert result.code == 2
    assert "'one' and 'draws.jsonl' differ in 'max_new_tokens'" in result.error


def test_every_format(job, run, nothing_loads):
    for form, name in (("markdown", "report.md"), ("model-card", "README.md")):
        assert job.run("report", str(run), "--format", form).code == 0
        assert "KL to the target" in (run / name).read_text()
    result = job.run("report", str(run), "--format", "csv", "--json")
    assert result.code == 0
    assert {path.rsplit("/")[-1] for path in result.json["output"]} >= {
        "comparison.csv",
        "plane.csv",
        "frontier.csv",
        "elbo.csv",
        "entropy.csv",
        "unique_fraction.csv",
        "rewards.csv",
    }
    figures = result.json["policies"]["rloo"]["figures"]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert figures == evaluation["policies"]["rloo"]["figures"]


def test_a_longer_frontier_can_take_the_place_of_the_runs(job, run):
    asked = ("frontier", str(job.config), "--num-samples", "200", "--strongest", "3", "--json")
    longer = job.run(*asked)
    assert longer.code == 0, longer.err
    sources = [point["source"] for point in longer.json["points"]]
    assert set(sources) == {"prior", "annealed"}
    (run / "frontier.json").write_text(longer.out)
    assert job.run("report", str(run)).code == 0
    page = (run / "report.html").read_text()
    reached = longer.json["points"][-1]["kl"]["value"]
    assert f"the frontier is known up to KL {number(reached)} nats" in page


def test_fit_leaves_a_model_card_and_not_a_template(job):
    job.fit("--quiet", "--set", "fit.policy=lora")
    text = (job.output / "policy" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n", 2)[1])
    assert front["library_name"] == "peft"
    assert front["base_model"] == "model"
    assert "KL to the target" in text
    assert "More Information Needed" not in text


def test_a_run_that_was_stopped(job, run, nothing_loads):
    (run / "evaluation.json").unlink()
    result = job.run("report", str(run))
    assert result.code == 0
    assert "rloo has not been evaluated" in result.out


@pytest.mark.parametrize("stopped", [False, True])
def test_a_finding_of_level_stop_is_an_exit_code(job, run, stopped):
    evaluation = json.loads((run / "evaluation.json").read_text())
    finding = {"level": "stop", "name": "x", "message": "It went wrong.", "hint": ""}
    if stopped:
        evaluation["stopped"] = finding
    else:
        evaluation["policies"]["rloo"]["findings"] = [finding]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    result = job.run("report", str(run), "--format", "markdown")
    assert result.code == 1
    assert "- **stop**, rloo: It went wrong." in (run / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("missing",), "'missing' does not exist; name a folder that"),
        (("model",), "'model' is not a run: it has neither"),
        (("run.toml",), "'run.toml' is a file, not a run's folder"),
        (("prompts.jsonl",), "nothing says what the draws in 'prompts.jsonl' are"),
        (("missing.parquet",), "'missing.parquet' does not exist; name a .jsonl or .parquet"),
        (("runs/one", "-o", "nowhere/page.html"), "there is no directory 'nowhere'"),
        (("runs/one", "-o", "model"), "'model' is a folder; name a file in it"),
        (("runs/one", "--format", "csv", "-o", "run.toml"), "'run.toml' is a file; csv needs"),
        (("runs/one", "runs/one"), "is named twice"),
        (("runs/one", "--format", "pdf"), "'pdf' is not one of"),
        ((), "Missing argument 'RUN...'"),
    ],
)
def test_wrong_use(job, run, monkeypatch, arguments, complaint):
    monkeypatch.chdir(job.folder)
    result = job.run("report", *arguments)
    assert result.code == 2
    assert complaint in result.error


def test_a_broken_file_is_named(job, run):
    (run / "samples.jsonl").write_text('{"policy": 1}\n')
    result = job.run("report", str(run))
    assert result.code == 2
    assert result.error.startswith(f"{run / 'samples.jsonl'}: cannot be read: ")
