"""After Ctrl-C: exit code 130, and one line that says what is true of what was kept."""

from __future__ import annotations

import json

import pytest

INTERRUPTED_AT = """\
from pathlib import Path

from my_reward import score as liked

armed = Path(__file__).with_name("armed")
calls = []


def score(**columns):
    calls.append(1)
    if len(calls) > {calls} and armed.exists():
        raise KeyboardInterrupt
    return liked(**columns)
"""


@pytest.fixture
def nothing_comes_of_loading(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("posteriori.config.models.load", interrupt)


def interrupted_after(job, calls: int) -> None:
    """The reward function is interrupted at the call after so many, while `armed` is there."""
    job.write("armed", "")
    job.write(f"stops_{calls}.py", INTERRUPTED_AT.format(calls=calls))
    job.change("my_reward.py:score", f"stops_{calls}.py:score")


def test_before_anything_was_written(job, nothing_comes_of_loading, monkeypatch):
    monkeypatch.chdir(job.folder)
    config = str(job.config)
    for arguments in (
        ("fit", config),
        ("evaluate", config, "model"),
        ("frontier", config),
        ("sample", config, "-o", "draws.jsonl"),
        ("twist", config, "-o", "twist.safetensors"),
        ("simulate-preferences", config, "-o", "pairs.jsonl"),
    ):
        before = sorted(job.folder.iterdir())
        result = job.run(*arguments, "--quiet")
        assert result.code == 130
        assert result.error == "interrupted; nothing was written"
        assert sorted(job.folder.iterdir()) == before


def test_a_fit_goes_on_with_resume(job):
    interrupted_after(job, 2)
    result = job.fit("--quiet")
    assert result.code == 130
    assert result.error == "interrupted; go on from the newest checkpoint with --resume"
    assert len((job.output / "metrics.jsonl").read_text().splitlines()) == 2
    (job.folder / "armed").unlink()
    assert job.fit("--quiet", "--resume").code == 0
    assert len((job.output / "metrics.jsonl").read_text().splitlines()) == 4


def test_draws_that_were_finished_are_kept(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    interrupted_after(job, 1)
    result = job.sample("-o", "draws.jsonl", "--num-samples", "600", "--quiet")
    assert result.code == 130
    assert result.error == "interrupted after 512 draws; they are in 'draws.jsonl'"
    assert len((job.folder / "draws.jsonl").read_text().splitlines()) == 512


def test_draws_that_failed_are_kept_too(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    interrupted_after(job, 1)
    path = job.folder / "stops_1.py"
    path.write_text(path.read_text().replace("KeyboardInterrupt", "ValueError"))
    result = job.sample("-o", "draws.jsonl", "--num-samples", "600", "--quiet", "--json")
    assert result.code == 1
    assert result.err.endswith("; the finished draws are in 'draws.jsonl'\n")
    assert json.loads(result.out)["output"] == "draws.jsonl"
    assert len((job.folder / "draws.jsonl").read_text().splitlines()) == 512


def test_a_demo_leaves_what_was_finished(cli, tmp_path, monkeypatch):
    pytest.importorskip("profanity_check")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("posteriori.models.load.load", interrupt)
    result = cli("demo", "--quick", "--quiet", "--output-dir", str(tmp_path / "demo"))
    assert result.code == 130
    assert result.error.startswith(f"interrupted; what was finished is in '{tmp_path / 'demo'}'")


@pytest.mark.parametrize("verb", ["sample", "twist", "frontier", "simulate-preferences"])
def test_the_same_command_with_resume_ends_as_if_it_had_never_stopped(job, verb):
    interrupted_after(job, 1)
    arguments = {
        "sample": ("--sampler", "importance", "--num-samples", "600", "-o", "OUT.jsonl"),
        "twist": ("--steps", "3", "--num-samples", "8", "-o", "OUT.safetensors"),
        "frontier": ("--num-samples", "100", "--stages", "1", "--strongest", "2"),
        "simulate-preferences": (
            "--num-pairs",
            "6",
            "--set",
            "max_new_tokens=8",
            "-o",
            "OUT.jsonl",
        ),
    }[verb]

    def run(name: str, *more: str):
        words = [str(job.folder / each.replace("OUT", name)) if "OUT" in each else each
                 for each in arguments]  # fmt: skip
        return job.run(verb, str(job.config), *words, "-q", *more)

    stopped = run("stopped")
    assert stopped.code == 130, stopped.err
    (job.folder / "armed").unlink()
    if verb != "twist":
        # Of a twist nothing was finished yet: its first step had to ask the evidence twice.
        again = run("stopped")
        assert again.code == 2
        assert "holds what an unfinished run has finished" in again.error
    resumed = run("stopped", "--resume")
    assert resumed.code == 0, resumed.err
    whole = run("whole")
    assert whole.code == 0, whole.err
    if verb == "frontier":
        assert resumed.out == whole.out
    else:
        suffix = ".safetensors" if verb == "twist" else ".jsonl"
        made, undisturbed = (job.folder / f"{name}{suffix}" for name in ("stopped", "whole"))
        assert made.read_bytes() == undisturbed.read_bytes()
    assert not list(job.folder.rglob("*.unfinished"))
