"""Help, listings, wrong use, exit codes: everything around the verbs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import posteriori
from posteriori.cli import main as main_module
from posteriori.cli.output import visible
from posteriori.registry import names

WITHOUT_TORCH = """
import sys
from posteriori.cli.main import run
code = run(sys.argv[1:])
heavy = [name for name in ("torch", "transformers", "peft", "sklearn") if name in sys.modules]
sys.exit(f"imported: {heavy}" if heavy else code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        [],
        ["fit", "--help"],
        ["demo", "--help"],
        ["ls"],
        ["ls", "objectives", "--json"],
        ["fit", "nowhere.toml"],
    ],
    ids=" ".join,
)
def test_answers_without_importing_torch(arguments):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert "imported" not in done.stderr
    assert done.returncode == (2 if "nowhere.toml" in arguments else 0), done.stderr
    assert done.stdout or done.returncode == 2


def test_a_dry_run_needs_no_torch(job):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "fit", str(job.config), "--dry-run"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_installed_command_is_this_one():
    command = os.path.join(os.path.dirname(sys.executable), "posteriori")
    done = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert done.stdout == f"posteriori {posteriori.__version__}\n"


def test_help_names_every_verb(cli):
    for result in (cli("--help"), cli()):
        assert result.code == 0
        for verb in ("demo", "fit", "evaluate", "ls", "doctor"):
            assert verb in result.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fti"], "No such command 'fti'. Did you mean 'fit'?"),
        (["evalute", "x"], "No such command 'evalute'. Did you mean 'evaluate'?"),
        (["fit", "a.toml", "--resum"], "No such option: --resum"),
        (["fit"], "Missing argument 'CONFIG'"),
        (["ls", "objctives"], "unknown kind of thing 'objctives'; did you mean 'objectives'?"),
    ],
)
def test_wrong_use(cli, arguments, expected):
    result = cli(*arguments)
    assert result.code == 2
    assert expected in result.error


def test_listings_are_one_line_each(cli):
    lines = cli("ls", "objectives").out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(names("objective"))
    by_name = {line.split()[0]: line for line in lines}
    assert by_name["rloo"].endswith(
        "REINFORCE with a leave-one-out baseline: minimises KL(policy, target)"
    )
    assert "minimises" not in by_name["rl"]
    assert {line.split()[0] for line in cli("ls", "evidence").out.splitlines()} >= {
        "constraint",
        "likelihood",
        "reward",
    }
    assert cli("ls", "models").out.startswith("tiny ")
    everything = cli("ls", "--json").json
    assert set(everything) == {"objectives", "samplers", "evidence", "models"}
    assert all(text for lines in everything.values() for text in lines.values())


def test_doctor(cli):
    checks = {check["name"]: check for check in cli("doctor", "--json").json}
    assert checks["python"]["level"] == "ok"
    assert checks["torch"]["level"] == "ok"
    assert "parameters" in checks["model 'tiny'"]["message"]
    assert {"threads", "device", "bfloat16", "profanity_check", "disk"} <= set(checks)
    assert "ok   torch: " in cli("doctor").out


def test_doctor_fails_where_the_installation_is_broken(cli, monkeypatch):
    def broken(*_, **__):
        raise OSError("the file is cut short")

    monkeypatch.setattr("posteriori.models.load.load", broken)
    result = cli("doctor")
    assert result.code == 1
    assert "stop bundled models: OSError: the file is cut short" in result.out


def test_an_interrupted_command_says_how_to_go_on(cli, job, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("posteriori.cli.build.load", interrupt)
    result = job.fit("--quiet")
    assert result.code == 130
    assert "--resume" in result.error


def test_a_place_that_cannot_be_written_is_told_in_one_line(job):
    job.write("runs", "a file where a folder should be")
    result = job.fit("--quiet")
    assert result.code == 2
    assert f"the run cannot be kept in '{job.output}'" in result.error


def test_a_reader_that_leaves_early_is_no_error():
    program = "from posteriori.cli.main import main; import time; time.sleep(0.5); main()"
    command = f'{sys.executable} -c "{program}" ls | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(main_module, "app", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        main_module.run(["ls"])


def test_what_a_model_writes_cannot_command_the_terminal(job, cli):
    assert visible("\x1b[2Ja\nb\u202e\x9b") == "\\x1b[2Ja\\nb\\u202e\\x9b"
    job.write(
        "my_reward.py",
        "def score(completions, **kwargs):\n    raise ValueError('\\x1b[2J[bold]x\\ny')\n",
    )
    error = job.fit("--quiet").error
    assert "\x1b" not in error
    assert "\\x1b[2J[bold]x y" in error
