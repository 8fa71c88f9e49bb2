"""Shell completion: verbs, options and names, quickly and without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from posteriori.cli.complete import models, samplers, settings
from posteriori.config.read_config import read_config
from posteriori.core.registry import names
from posteriori.errors import ConfigError

WITHOUT_TORCH = """
import atexit, sys
from posteriori.cli.main import main

def check():
    heavy = [name for name in ("torch", "transformers", "peft") if name in sys.modules]
    if heavy:
        print("imported", heavy, file=sys.stderr)

atexit.register(check)
main()
"""


def complete(*words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_POSTERIORI_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(("posteriori", *words)),
            "COMP_CWORD": str(len(words)),
        },
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_and_options():
    assert complete("f") == ["frontier", "fit"]
    assert "--num-samples" in complete("sample", "run.toml", "--num")


def test_names():
    assert complete("ls", "s") == ["samplers"]
    assert sorted(complete("sample", "run.toml", "--sampler", "")) == sorted(names("sampler"))
    assert complete("report", "--format", "mo") == ["model-card"]
    assert complete("evaluate", "run.toml", "t") == ["tiny"]
    # Files are the shell's to complete.
    assert complete("evaluate", "run.toml", "") == []
    assert complete("fit", "") == []


def test_settings():
    keys = settings("")
    assert {"fit.objective=", "evidence.0.beta=", "evidence.0.calls.cache=", "prior.path="} <= {
        *keys
    }
    assert settings("fit.objective=r") == [
        f"fit.objective={name}" for name in names("objective") if name.startswith("r")
    ]
    assert settings("evidence.0.kind=mo") == ["evidence.0.kind=moments"]
    assert settings("sample.sampler=sm") == ["sample.sampler=smc"]
    assert settings("fit.policy=") == ["fit.policy=full", "fit.policy=lora"]
    assert settings("fit.steps=") == settings("nothing.such") == []


def test_descriptions_stay_on_one_line():
    for name, line in [*samplers(""), *models("t")]:
        assert line
        assert len(name) + len(line) < 72


def test_every_key_that_is_offered_is_one(job):
    """A config refuses none of them as unknown; and one that is not offered, it does."""

    def refusal(override: str) -> str:
        try:
            read_config(job.config, [override])
        except ConfigError as error:
            return str(error)
        return ""

    for key in settings(""):
        assert "unknown key" not in refusal(f"{key}?"), key
    assert "unknown key" in refusal("fit.stepz=?")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    command = os.path.join(os.path.dirname(sys.executable), "posteriori")
    done = subprocess.run(
        [shell, "-c", f"{command} --show-completion; true"], capture_output=True, text=True
    )
    assert "_POSTERIORI_COMPLETE=complete_" in done.stdout, done.stderr
