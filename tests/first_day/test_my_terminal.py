"""The command line on a first day: what is typed, and what is typed wrongly."""

from __future__ import annotations

import pytest

CONFIG = """
output_dir = "run"
prompts = ["You are"]
max_new_tokens = 3
[prior]
path = "tiny"
[[evidence]]
kind = "reward"
function = "judge.py:warmth"
beta = 0.5
[fit]
objective = "rloo"
steps = 1
num_samples = 2
learning_rate = 1e-4
[evaluate]
num_samples = 8
[sample]
num_samples = 4
"""
JUDGE = "def warmth(completions, **kwargs):\n    return [float('good' in c) for c in completions]\n"


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "run.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run.toml"


def changed(config, old, new):
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))


def test_a_day_from_fit_to_report(config, cli):
    for words in (
        ("fit", "run.toml", "--dry-run"),
        ("fit", "run.toml"),
        ("fit", "run.toml", "--overwrite"),
        ("evaluate", "run.toml"),
        ("frontier", "run.toml", "--num-samples", "128"),
        ("report", "run"),
    ):
        result = cli(*words)
        assert result.code in (0, 1), result.err
        assert "error" not in result.err.lower(), result.err


def test_sample_shows_some_draws(config, cli):
    result = cli("sample", "run.toml", "-o", "draws.jsonl")
    assert result.code == 0
    assert "'You are' -> '" in result.out


@pytest.mark.parametrize("words", [("--help",), ("fit", "--help"), ("ls",), ("--version",)])
def test_what_is_asked_first(cli, words):
    assert cli(*words).code == 0


def key(new):
    return ("fit", "run.toml"), ("num_samples = 2", new)


MISTAKES = {
    "a file that is not there": (("fit", "rn.toml"), None, "give the path of a TOML config"),
    "a Python file": (("fit", "judge.py"), None, "TOML"),
    "a mistyped key": (*key("num_sample = 2"), "num_samples"),
    "TRL's key": (*key("num_generations = 2"), "num_samples"),
    "a number as text": (*key('num_samples = "2"'), "num_samples"),
    "a mistyped command": (("fti", "run.toml"), None, "fit"),
    "a mistyped option": (("fit", "run.toml", "--dry"), None, "--dry-run"),
    "a mistyped objective": (
        ("fit", "run.toml"),
        ('objective = "rloo"', 'objective = "rlo"'),
        "rloo",
    ),
    "a function that is not there": (
        ("fit", "run.toml"),
        ("judge.py:warmth", "judge.py:warmt"),
        "warmth",
    ),
    "a file of functions that is not there": (
        ("fit", "run.toml"),
        ("judge.py:warmth", "juge.py:warmth"),
        "paths are relative to the config",
    ),
    "broken TOML": (("fit", "run.toml"), ("steps = 1", "steps = "), "run.toml"),
    "a missing model": (("fit", "run.toml"), ('path = "tiny"', 'path = "models/mine"'), "models"),
    "no run to report": (("report", "nowhere"), None, "nowhere"),
    "no output to sample into": (("sample", "run.toml"), None, "--output"),
    "another kind of output": (("sample", "run.toml", "-o", "a.csv"), None, ".jsonl"),
    "a setting that is not there": (
        ("fit", "run.toml", "--set", "fit.learning_rat=1"),
        None,
        "learning_rate",
    ),
}


@pytest.mark.parametrize("act", MISTAKES)
def test_a_mistake_ends_in_one_line(config, cli, act):
    words, change, told = MISTAKES[act]
    if change:
        changed(config, *change)
    result = cli(*words)
    assert result.code == 2
    assert told in result.error


def test_a_second_run_says_how_to_go_on(config, cli):
    assert cli("fit", "run.toml").code in (0, 1)
    told = cli("fit", "run.toml").error
    assert "--resume" in told
    assert "--overwrite" in told
