"""Draws, twists and reward models: what is finished is on disk, and a full disk is one line."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posteriori as po
from posteriori.cli.files.draws_file import Kept, write_draws
from posteriori.cli.files.rescue import write_or_rescue
from posteriori.core.journal import files
from posteriori.errors import CheckpointError, ModelError
from posteriori.report.write.csv_files import _cell
from posteriori.samplers.smc.twist_head import TwistHead


def count_a(completions, **kwargs):
    return [float(text.count("a")) for text in completions]


@pytest.fixture
def target() -> po.Target:
    table = po.TabularLM.random(["<eos>", "a", "b"], 3, ["p", "q"], seed=1)
    return po.Target(table, po.Reward(count_a, beta=1.0, max_reward=3.0), table.prompts, 3)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("sampler", ["importance", "rejection"])
def test_finished_draws_are_in_the_file_on_the_way(target, tmp_path, sampler):
    path, seen = tmp_path / "draws.jsonl", []
    keep = Kept(path)
    keep._next = 0.0

    def keeps(draws):
        keep(draws)
        keep._next = 0.0
        seen.append(len(path.read_text().splitlines()))

    draws = po.sample(target, sampler, 600, on_keep=keeps)
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert seen[-1] == len(draws) == 1200


def test_writing_on_the_way_takes_a_small_share(target, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("posteriori.cli.files.draws_file.write_draws", lambda *a: written.append(a))
    clock = iter(range(10_000))
    monkeypatch.setattr("posteriori.cli.files.draws_file.time.monotonic", lambda: next(clock))
    keep, draws = Kept(tmp_path / "draws.jsonl"), po.sample(target, "importance", 2)
    for _ in range(60):
        keep(draws)
    # The first is at tick 0, takes two, and forty are waited for; the third would be at tick 82.
    assert len(written) == 2


def test_a_full_disk_loses_no_draws(target, tmp_path, monkeypatch):
    draws = po.sample(target, "importance", 8)
    place, temporary = tmp_path / "full", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    replace = os.replace
    monkeypatch.setattr(
        files.os, "replace", lambda a, b: full() if Path(b).parent == place else replace(a, b)
    )
    with pytest.raises(CheckpointError, match="No space left on device; make room") as caught:
        write_or_rescue(
            place / "draws.jsonl", lambda path: write_draws(path, draws), "all 16 draws"
        )
    assert "\n" not in str(caught.value)
    kept = Path(str(caught.value).split("draws are in '")[1].rstrip("'"))
    assert len(kept.read_text().splitlines()) == 16
    assert os.listdir(place) == []


@pytest.mark.moves_rng
@pytest.mark.parametrize("name", ["open", "fsync", "replace", "torch.save"])
def test_a_disk_that_is_full_at_any_write_of_a_fit_is_one_line(target, tmp_path, monkeypatch, name):
    """And the run goes on, once there is room, to the bits of one that was not stopped."""
    settings = {"steps": 6, "num_samples": 4, "learning_rate": 0.1, "checkpoint_every": 2}
    armed: list[int] = []

    def after_three(record):
        if record["step"] == 2:
            armed.append(1)

    def failing(original):
        return lambda *a, **k: full() if armed else original(*a, **k)

    if name == "torch.save":
        monkeypatch.setattr(torch, "save", failing(torch.save))
    else:
        monkeypatch.setattr(files.os, name, failing(getattr(os, name)))
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        po.fit(target, "rloo", **settings, output_dir=run, on_step=after_three)
    assert "\n" not in str(caught.value)
    armed.clear()
    monkeypatch.undo()
    resumed = po.fit(target, "rloo", **settings, output_dir=run, resume=True)
    whole = po.fit(target, "rloo", **settings, output_dir=tmp_path / "whole")
    assert torch.equal(resumed.policy.logits, whole.policy.logits)
    assert [line["step"] for line in resumed.history] == list(range(6))


def test_a_twist_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "twist.safetensors"
    TwistHead(4, 4, 0, 1, 0).save(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("posteriori.samplers.smc.twist_head.save_file", full)
        with pytest.raises(ModelError, match="the twist cannot be written"):
            TwistHead(4, 4, 0, 1, 1).save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["twist.safetensors"]


def test_a_planted_link_is_replaced_and_not_followed(target, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    for name in ("draws.jsonl", ".draws.jsonl.incoming", "twist.safetensors"):
        (tmp_path / name).symlink_to(theirs)
    write_draws(tmp_path / "draws.jsonl", po.sample(target, "importance", 2))
    TwistHead(4, 4, 0, 1, 0).save(tmp_path / "twist.safetensors")
    assert theirs.read_text() == "precious"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+1", "@SUM(1)", " =1", "|cmd", "%x", "\uff1d1"])
def test_a_cell_is_no_formula(text, tmp_path):
    assert _cell(text).startswith("'")
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerow([_cell(text)])
    with path.open(newline="") as file:
        assert next(csv.reader(file))[0][0] == "'"


@pytest.mark.parametrize(
    ("value", "cell"), [(-1.5, "-1.5"), (-3, "-3"), ("rloo", "rloo"), ("", "")]
)
def test_numbers_and_names_are_cells_as_they_are(value, cell):
    assert _cell(value) == cell


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_traceback(redirection):
    command = f"{sys.executable} -c 'from posteriori.cli.main import main; main()' ls objectives"
    done = subprocess.run(
        f"exec {command.replace('main()', 'main()')} {redirection}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_an_ascii_stream_gets_escapes():
    code = (
        "from posteriori.cli.console.output import print_json, stdout\n"
        "print_json({'a': '\\u00e9'}); stdout().print('\\u00e9')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert json.loads(done.stdout.rsplit("\n", 2)[0].replace("\\xe9", "e")) == {"a": "e"}
    assert done.stdout.endswith("\\xe9\n")
