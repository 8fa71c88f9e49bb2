"""Folders with planted modules, a directory that is gone, a standard error that cannot be written,
Python without docstrings."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from posteriori.cli.console.lasting import Lasting, lasting_stderr
from posteriori.config.functions import load_function
from posteriori.errors import EvidenceError

pytestmark = pytest.mark.long

PLANTED = "raise SystemExit('planted code ran')\n"


def start(arguments, folder, **settings):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        **settings,
    )


@pytest.mark.parametrize("module", ["posteriori", "posteriori.cli.main"])
def test_python_m_imports_nothing_from_the_current_folder(module, tmp_path):
    for name in ("rich", "typer", "pydantic", "numpy", "tomllib", "shutil"):
        (tmp_path / f"{name}.py").write_text(PLANTED)
    done = start(["-m", module, "--version"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("posteriori ")


def test_the_folder_is_left_to_other_programs(tmp_path):
    (tmp_path / "program.py").write_text("import posteriori.cli, helper\nprint(helper.X)\n")
    (tmp_path / "helper.py").write_text("X = 3\n")
    for arguments in (["-m", "program"], ["program.py"], ["-c", "import program"]):
        assert start(arguments, tmp_path).stdout == "3\n"


def test_the_folder_of_a_config_comes_first_for_its_functions_and_then_last(tmp_path):
    (tmp_path / "my_scores.py").write_text("import colorsys\n\ndef score(**_):\n    return 1\n")
    (tmp_path / "colorsys.py").write_text("MINE = True\n")
    before = list(sys.path)
    sys.modules.pop("colorsys", None)
    try:
        load_function("my_scores:score", tmp_path, "here")
        assert sys.modules["colorsys"].MINE
        assert sys.path == [*before, str(tmp_path)]
        # What the library itself imports later is the installed one.
        found = PathFinder.find_spec("colorsys", sys.path)
        assert found is not None
        assert not str(found.origin).startswith(str(tmp_path))
    finally:
        sys.path[:] = before
        for name in ("my_scores", "colorsys"):
            sys.modules.pop(name, None)


def test_a_directory_that_is_gone_is_one_line(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = "import os, sys; os.rmdir(os.getcwd()); from posteriori.cli.main import main; main()"
    done = start(["-c", script, "ls"], gone)
    assert done.returncode == 2
    assert done.stderr == ("error: the current directory has been removed; change to another one\n")


class Full:
    """A stream on a full disk."""

    encoding, errors = "utf-8", "strict"

    def write(self, text):
        raise OSError(28, "No space left on device")

    flush = write

    def isatty(self):
        return False


def test_a_full_disk_behind_standard_error_raises_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())
    with lasting_stderr():
        lasting = sys.stderr
        assert isinstance(lasting, Lasting)
        print("a note", file=lasting)
        print("another", file=lasting)
        assert lasting.name == os.devnull
    assert sys.stderr is lasting
    lasting.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_fit_goes_on_without_standard_error(job):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "posteriori", "fit", str(job.folder / "run.toml")],
            stdout=subprocess.PIPE,
            stderr=full,
            cwd=job.folder,
            timeout=300,
        )
    assert done.returncode == 0
    assert (job.folder / "runs" / "one" / "evaluation.json").exists()


def test_python_without_docstrings_is_one_line(job):
    done = start(
        ["-OO", "-m", "posteriori", "fit", "run.toml", "-q"], job.folder, env={**os.environ}
    )
    # transformers may learn to do without them.
    if done.returncode:
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "PYTHONOPTIMIZE=2" in done.stderr


def test_errors_command_no_terminal():
    error = EvidenceError("it raised \x1b]0;owned\x07 \u202e", where="score\x9b31m", hint="a\nb")
    assert str(error) == r"score\x9b31m: it raised \x1b]0;owned\x07 \u202e; a b"
