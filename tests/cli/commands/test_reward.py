"""`posteriori reward` and `posteriori simulate-preferences`."""

from __future__ import annotations

import json

import pytest
import transformers

REWARD = """
[reward]
pairs = "pairs.jsonl"
model = "model"
output = "rm"
epochs = 1
"""
PAIRS = [
    {"prompt": prompt, "chosen": " b b", "rejected": rejected}
    for prompt in ("a", "b", "c", "d")
    for rejected in (" d", " e", " c d")
]


@pytest.fixture
def pairs(job):
    return job.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in PAIRS))


@pytest.fixture
def options(job, pairs):
    return (
        "--pairs",
        str(pairs),
        "--model",
        str(job.folder / "model"),
        "-o",
        str(job.folder / "rm"),
    )


def test_options_alone_train_a_model_that_transformers_loads(job, options):
    result = job.run("reward", *options, "--quiet", "--set", "reward.epochs=1")
    assert result.code == 0
    for shown in ("held-out accuracy", "calibration error", "at temperature", "±"):
        assert shown in result.out
    assert "9 pairs to train on, 3 held out (prompts: 1)" in result.out
    assert result.err == ""
    found = transformers.AutoModelForSequenceClassification.from_pretrained(job.folder / "rm")
    assert found.config.num_labels == 1
    assert (job.folder / "rm" / "reliability.svg").read_text().startswith("<?xml")


def test_a_config_names_everything_relative_to_its_own_folder(job, pairs, tmp_path, monkeypatch):
    job.write("reward.toml", REWARD + 'uncertainty = "laplace"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = job.run("reward", str(job.folder / "reward.toml"), "--json", "--quiet")
    assert result.code == 0
    about = json.loads((job.folder / "rm" / "reward.json").read_text())
    assert result.json["held_out"] == about["held_out"]
    assert result.json["prior_precision"] > 0
    assert 0 <= about["held_out"]["accuracy"]["value"] <= 1
    assert result.json["output"] == str(job.folder / "rm")


def test_a_dry_run_trains_and_writes_nothing(job, options):
    result = job.run("reward", *options, "--dry-run")
    assert result.code == 0
    assert "reward.epochs = 3" in result.out
    assert "a reward model from 12 pairs" in result.out
    assert not (job.folder / "rm").exists()
    refused = job.run("reward", *options, "--dry-run", "--set", "reward.members=3")
    assert "'members' has no effect" in refused.error


def test_progress_goes_to_standard_error(job, options):
    result = job.run("reward", *options, "--json")
    assert result.json["finished"]
    assert result.err == "reward\n"


def test_a_model_directory_is_evidence_in_a_config(job, options):
    assert job.run("reward", *options, "-q", "--set", "reward.uncertainty=ensemble").code == 0
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"', 'kind = "preferences"\nmodel = "rm"'
    )
    arguments = ("-o", str(job.folder / "d.jsonl"), "--num-samples", "8", "-q", "--json")
    assert job.sample(*arguments, "--set", "evidence.0.uncertainty=lower").code == 0
    error = job.sample(*arguments, "--set", "evidence.0.kappa=2.0").error
    assert "'kappa' has no effect" in error
    job.change('model = "rm"', 'function = "my_reward.py:score"')
    assert "'function' is given; preferences speak through model" in job.sample(*arguments).error


def test_uncertainty_is_for_preferences_only(job):
    error = job.fit("--set", "evidence.0.uncertainty=lower").error
    assert "a reward has no 'uncertainty'" in error


def test_a_config_may_hold_a_target_and_a_reward_model(job, pairs):
    job.write("run.toml", job.config.read_text() + REWARD)
    assert job.fit("--dry-run").code == 0
    assert job.run("reward", str(job.config), "-q").code == 0


REFUSED = {
    "an output that is in use": ((), "is not empty"),
    "an unknown key": (("--set", "reward.epoch=2"), "unknown key 'epoch'; did you mean 'epochs'?"),
    "a setting out of range": (("--set", "reward.held_out=1.0"), "'held_out' = 1.0"),
    "a model that is not there": (("--model", "./none"), "there is no model at"),
    "pairs that are not there": (("--pairs", "./none.jsonl"), "there is no such file of pairs"),
    "a setting without effect": (("--set", "reward.members=3"), "'members' has no effect"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(job, options, name):
    arguments, message = REFUSED[name]
    if not arguments:
        (job.folder / "rm").mkdir()
        job.write("rm/notes.txt", "mine")
    result = job.run("reward", *options, "-q", *arguments)
    assert result.code == 2
    assert message in result.error


def test_a_missing_option_or_table_is_named(job):
    assert "--pairs is missing" in job.run("reward").error
    error = job.run("reward", str(job.config)).error
    assert error.startswith(f"{job.config}: 'reward' is missing; write a table [reward]")


def test_a_wrong_line_is_named(job, options):
    lines = (job.folder / "pairs.jsonl").read_text()
    job.write("pairs.jsonl", lines + '{"prompt": "a", "chosen": " b", "rejected": " b"}\n')
    error = job.run("reward", *options, "-q").error
    assert error.startswith(
        f"{job.folder / 'pairs.jsonl'}:13: 'chosen' and 'rejected' are the same"
    )
    assert not (job.folder / "rm").exists()


def test_a_run_that_is_cut_short_says_where_its_best_model_is(job, options, monkeypatch):
    from posteriori.reward_models.writer import Writer

    def interrupt(self, record):
        if record["step"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "step", interrupt)
    result = job.run("reward", *options, "-q", "--set", "reward.batch_size=3")
    assert result.code == 130
    kept = job.folder / "rm" / "checkpoint"
    assert result.error == f"interrupted; the best model so far is in '{kept}'"
    transformers.AutoModelForSequenceClassification.from_pretrained(kept)


def test_simulated_pairs_are_read_by_reward(job, options):
    file = job.folder / "simulated.jsonl"
    # The tiny model's words need a space between prompt and completion.
    job.write("prompts.jsonl", '{"prompt": "a ", "weight": 1}\n{"prompt": "b ", "weight": 2}\n')
    arguments = ("simulate-preferences", str(job.config), "-o", str(file), "--num-pairs", "40")
    result = job.run(*arguments, "--scale", "0.5", "--seed", "3", "--json", "-q")
    assert result.code == 0
    assert result.json["num_pairs"] == 40
    assert 0.5 <= result.json["best_accuracy"] <= 1
    first = file.read_text()
    assert len(first.splitlines()) == 40
    assert "is there already" in job.run(*arguments).error
    file.unlink()
    assert job.run(*arguments, "--scale", "0.5", "--seed", "3", "-q").code == 0
    assert file.read_text() == first
    trained = job.run("reward", *options, "--pairs", str(file), "-q", "--json")
    assert trained.code == 0
    assert trained.json["num_train"] + trained.json["held_out"]["num_pairs"] == 40


def test_simulated_pairs_need_a_place(job):
    run = ("simulate-preferences", str(job.config), "-o")
    assert "not written to a '.csv' file" in job.run(*run, str(job.folder / "p.csv")).error
    assert "there is no folder" in job.run(*run, str(job.folder / "no" / "p.jsonl")).error
    wrong = job.run(*run, str(job.folder / "p.jsonl"), "-q", "--noise", "0.7")
    assert "noise=0.7" in wrong.error
    assert not (job.folder / "p.jsonl").exists()
