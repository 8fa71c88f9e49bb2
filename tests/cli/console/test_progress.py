"""Progress: live bars in a terminal, a few plain lines elsewhere, nothing when quiet; and JSON on
standard output whatever goes on beside it."""

from __future__ import annotations

import io
import json
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from posteriori.cli import main
from posteriori.cli.console import pace, progress_bar
from posteriori.cli.console.pace import Pace, Parts, rate

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    """A terminal in place of standard error."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120, markup=False, emoji=False)
    monkeypatch.setattr(progress_bar, "stderr", lambda: console)
    return written


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def lines_on(screen: io.StringIO) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", ESCAPE.sub("", screen.getvalue())) if line]


def test_a_bar_has_a_rate_the_time_left_and_parts(screen):
    with progress_bar.count_progress("work [/b]\x1b[2J") as on_progress:
        for total in (4, 6):
            for done in range(total + 1):
                on_progress(done, total)
                time.sleep(0.15)
    lines = lines_on(screen)
    assert "\x1b[2J" not in screen.getvalue()
    assert any(re.search(r"work \[/b\]\\x1b\[2J .* 2/4 .*\d/s 0:00:0\d", line) for line in lines)
    assert re.search(r"part 2 .* 6/6 .*\d/s", lines[-1])
    assert not any("part 3" in line for line in lines)


def test_plain_lines_come_at_2_4_8_seconds(clock, capfd):
    with progress_bar.count_progress("work") as on_progress:
        for second in range(20):
            clock[0] = float(second)
            on_progress(100 * second, 2000)
        clock[0] = 20.0
        on_progress(2000, 2000)
        on_progress(0, 3)
        clock[0] = 27.0
        on_progress(1, 3)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "work",
        "work: 200/2000, 2 s, 100/s, 18 s left",
        "work: 400/2000, 4 s, 100/s, 16 s left",
        "work: 800/2000, 8 s, 100/s, 12 s left",
        "work: 1600/2000, 16 s, 100/s, 4 s left",
        "work, part 2: 1/3, 7 s, 7 s each, 14 s left",
    ]


def test_a_short_run_prints_its_name_alone_and_a_quiet_one_nothing(capfd):
    with progress_bar.count_progress("work") as on_progress:
        on_progress(1, 2)
        on_progress(2, 2)
    assert capfd.readouterr().err == "work\n"
    with progress_bar.count_progress("work", quiet=True) as on_progress:
        on_progress(2, 2)
    with progress_bar.fit_progress("rloo", 4, quiet=True) as shown:
        shown({"step": 0, "mean_reward": 1.0})
        shown.searching(1, 2)
        shown.note("x")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_fit_looks_for_beta_first(clock, capfd):
    with progress_bar.fit_progress("rloo", 10) as shown:
        for second in range(6):
            clock[0] = float(second)
            shown.searching(second, 5)
        shown({"step": 0, "mean_reward": 1.0})
        clock[0] = 10.0
        shown({"step": 1, "mean_reward": 2.0})
    assert capfd.readouterr().err.splitlines() == [
        "rloo: step 0/10, finding beta: 2/5, 2 s",
        "rloo: step 0/10, finding beta: 4/5, 4 s",
        "rloo: step 2/10, reward 2, 10 s, 5 s each, 40 s left",
    ]


def test_a_fit_in_a_terminal(screen):
    with progress_bar.fit_progress("rloo", 4) as shown:
        for step in range(4):
            shown({"step": step, "mean_reward": 1.5})
            time.sleep(0.15)
    assert re.search(r"rloo .* 4/4 reward 1.5 .*\d/s", lines_on(screen)[-1])


def test_rates_and_times(clock):
    assert [rate(x) for x in (1234567.0, 99.44, 1.0, 0.5, 0.01)] == [
        "1,234,567/s",
        "99.4/s",
        "1/s",
        "2 s each",
        "100 s each",
    ]
    walk = Pace()
    assert walk.words(0, 10) == "0 s"
    clock[0] = 3600.0
    assert walk.words(1, 3) == "1:00:00, 3.6e+03 s each, 2:00:00 left"
    assert walk.due()
    assert not walk.due()


def test_parts():
    parts = Parts()
    assert [parts.begins(done) for done in (0, 3, 3, 0, 1, 0)] == [
        *(False, False, False, True, False, True)
    ]
    assert parts.called("work") == "work, part 3"


@pytest.fixture
def commands(job, monkeypatch):
    """Command lines of every verb that works on a job, in an order in which they can be run."""
    monkeypatch.chdir(job.folder)
    # The tiny model's words need a space between prompt and completion.
    job.write("prompts.jsonl", '{"prompt": "a ", "weight": 1}\n{"prompt": "b ", "weight": 2}\n')
    config = str(job.config)
    small = ("--set", "reward.batch_size=8", "--set", "reward.epochs=1")
    return [
        ("fit", config, "--set", "fit.steps=1"),
        ("evaluate", config),
        ("frontier", config, "--num-samples", "200", "--stages", "1"),
        ("sample", config, "-o", "draws.jsonl", "--num-samples", "20"),
        ("twist", config, "-o", "t.safetensors", "--steps", "1", "--num-samples", "4"),
        ("report", str(job.output)),
        ("simulate-preferences", config, "-o", "pairs.jsonl", "--num-pairs", "40", "--seed", "3"),
        ("reward", "--pairs", "pairs.jsonl", "--model", "model", "-o", "rm", *small),
    ]


def test_with_json_standard_output_is_one_document(job, commands):
    for arguments in commands:
        result = job.run(*arguments, "--json")
        assert result.code in (0, 1), result.err
        assert isinstance(json.loads(result.out), dict), arguments
        assert result.err, f"{arguments[0]} shows nothing of what it does"
        assert "\x1b" not in result.err


def test_quiet_verbs_say_nothing_beside_their_result(job, commands):
    for arguments in commands:
        result = job.run(*arguments, "--quiet")
        assert result.code in (0, 1), result.err
        assert result.err == "", arguments
        assert result.out


def test_moments_are_shown_while_they_are_fitted(job):
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
        'kind = "moments"\nmethod = "draws"\nnum_samples = 200\n'
        '[evidence.features.twos]\nfunction = "my_reward.py:score"\nmean = 0.5',
    )
    result = job.run("frontier", str(job.config), "--num-samples", "200", "--stages", "0")
    assert "fitting the moments\n" in result.err


def test_every_verb_that_ends_has_json(cli):
    for verb in main._VERBS:
        name = verb.__name__.replace("_", "-")
        if name == "serve":  # what it has to say are answers to requests
            continue
        assert "--json" in cli(name, "--help").out
        if name not in ("ls", "doctor"):
            assert "--quiet" in cli(name, "--help").out
