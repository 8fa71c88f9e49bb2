"""Help, listings, wrong use, exit codes: everything around the verbs."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

import posteriori
from posteriori.cli import main as main_module
from posteriori.cli.commands.doctor import EXTRAS
from posteriori.cli.console.output import visible
from posteriori.core.registry import EVIDENCE, configured, names
from posteriori.core.settings.ways import Ways

doctor_module = importlib.import_module("posteriori.cli.commands.doctor")

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
        (["fitt"], "No such command 'fitt'. Did you mean 'fit'?"),
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
    kinds = ("objectives", "samplers", "evidence", "twists", "models", "reward_models")
    assert tuple(everything) == kinds
    assert set(everything["twists"]) == {"none", "evidence", "prefix", "rollouts"}
    assert all(text for lines in everything.values() for text in lines.values())
    for kind in ("objective", "sampler", "evidence"):
        assert set(names(kind)) <= set(everything[kind if kind == "evidence" else f"{kind}s"])


def test_ready_made_evidence_has_its_line(cli):
    listed = cli("ls", "evidence", "--json").json["evidence"]
    kinds = {name: configured("evidence", name) for name in EVIDENCE}
    for name, kind in kinds.items():
        for way in kind.ways if issubclass(kind, Ways) else ():
            assert (f"{name}.{way.own}" in listed) == bool(way.says)
            assert not way.says or f"{way.own} = ...: " in listed[f"{name}.{way.own}"]
    assert {"constraint.regex", "likelihood.classifier", "judge.url", "preferences"} <= set(listed)


def test_a_sampler_is_listed_with_its_guarantee(cli):
    listed = cli("ls", "samplers", "--json").json["samplers"]
    assert listed["rejection"].endswith("(exact)")
    assert listed["smc"].endswith("(properly weighted)")


def test_help_says_what_was_written(cli):
    """Square brackets would be taken for markup, and vanish."""
    for verb in main_module._VERBS:
        assert "[" not in inspect.getdoc(verb)
    assert "its table `twist`" in " ".join(cli("--help").out.replace("│", "").split())
    assert "a table `reward`" in " ".join(cli("reward", "--help").out.replace("│", "").split())


def test_doctor(cli):
    checks = {check["name"]: check for check in cli("doctor", "--json").json}
    assert checks["python"]["level"] == "ok"
    assert checks["torch"]["level"] == "ok"
    assert "parameters" in checks["model 'tiny'"]["message"]
    assert {"threads", "device", "bfloat16", "disk", *(e.package for e in EXTRAS)} <= set(checks)
    assert "ok   torch: " in cli("doctor").out


def test_doctor_says_what_an_extra_is_for_and_how_to_get_it(cli, monkeypatch):
    found = doctor_module.version

    def version(package):
        if package == "trl":
            raise PackageNotFoundError(package)
        return found(package)

    monkeypatch.setattr(doctor_module, "version", version)
    result = cli("doctor")
    assert result.code == 0
    assert "info trl: not installed; only for the callback for TRL's trainers: pip install" in (
        result.out
    )


@pytest.mark.parametrize("wrong", ["missing", "old"])
def test_doctor_stops_where_something_needed_is_missing(cli, monkeypatch, wrong):
    found = doctor_module.version

    def version(package):
        if package != "peft":
            return found(package)
        if wrong == "old":
            return "0.1"
        raise PackageNotFoundError(package)

    monkeypatch.setattr(doctor_module, "version", version)
    result = cli("doctor")
    assert result.code == 1
    what = "not installed" if wrong == "missing" else "0.1 is not >="
    assert re.search(rf"stop peft: {what}.*; pip install 'peft>=", result.out)


def test_doctor_looks_at_the_disk_that_runs_go_to(cli, monkeypatch, tmp_path):
    def disk(*arguments):
        checks = cli("doctor", "--json", *arguments).json
        return {check["name"]: check for check in checks if check["name"] in ("disk", "output")}

    there = disk("--output-dir", str(tmp_path / "runs" / "not" / "yet"))
    assert there["disk"]["level"] == "ok"
    assert f"'{tmp_path}'" in there["disk"]["message"]
    (tmp_path / "runs").write_text("a file where a folder should be")
    result = cli("doctor", "--output-dir", str(tmp_path / "runs"))
    assert result.code == 1
    assert f"stop output: '{tmp_path / 'runs'}' is a file; rename it" in result.out
    monkeypatch.setattr(doctor_module, "_FREE_GIB", 1e9)
    assert disk("--output-dir", str(tmp_path))["disk"]["level"] == "warn"


def test_doctor_fails_where_the_installation_is_broken(cli, monkeypatch):
    def broken(*_, **__):
        raise OSError("the file is cut short")

    monkeypatch.setattr("posteriori.models.load.load", broken)
    result = cli("doctor")
    assert result.code == 1
    assert (
        "stop bundled models: OSError: the file is cut short; install posteriori again"
        in result.out
    )


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
