"""The wheel: it holds the whole package, and works where nothing else of the repository is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import posteriori as po

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
USED = """
import importlib.metadata, pathlib, sys
import posteriori as po

assert pathlib.Path(po.__file__).is_relative_to(sys.prefix), po.__file__
assert importlib.metadata.version("posteriori") == po.__version__
for name in po.__all__:
    getattr(po, name)
prior = po.load("tiny")
target = po.Target(prior, po.Power(1.5), ["You are"], max_new_tokens=4)
print(len(po.sample(target, "importance", num_samples=8, seed=0).texts))
"""


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Without what the tests' own environment says of where to import from."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def clean_environment(folder: Path, *, with_pip: bool) -> Path:
    """A new environment's Python."""
    venv.create(folder, with_pip=with_pip, symlinks=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing of an earlier build gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source / name)
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, *build, "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("posteriori-*.whl")
    return built


def test_it_holds_every_file_of_the_package(wheel):
    package = ROOT / "src" / "posteriori"
    there = {
        f"posteriori/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("posteriori/")}
    assert held == there


def test_alone_in_a_clean_environment_it_imports_lists_and_draws(wheel, tmp_path):
    """Its dependencies are those of the tests' environment: they are found there by their path,
    and a path leads to no editable install."""
    python = clean_environment(tmp_path / "clean", with_pip=False)
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(sys.executable, *install, wheel, cwd=tmp_path)
    (packages,) = (tmp_path / "clean" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    command = python.with_name("posteriori")
    assert po.__version__ in run(command, "--version", cwd=tmp_path).stdout
    assert "tiny" in run(command, "ls", "models", cwd=tmp_path).stdout
    assert run(python, "-c", USED, cwd=tmp_path).stdout.split()[-1] == "8"


@pytest.mark.slow
def test_with_its_own_dependencies_from_the_index(wheel, tmp_path):
    python = clean_environment(tmp_path / "clean", with_pip=True)
    install = ("-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    run(python, *install, wheel, cwd=tmp_path)
    assert run(python, "-c", USED, cwd=tmp_path).stdout.split()[-1] == "8"


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == po.__version__


def test_the_changelog_begins_with_this_version():
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line.startswith("## ")) == f"## {po.__version__}"


@pytest.mark.parametrize(("tag", "is_it"), [(f"v{po.__version__}", True), ("v0.0.1", False)])
def test_a_tag_is_the_version_that_the_package_states(tag, is_it):
    """What `make wheel TAG=...` checks before it builds."""
    # Within another make it would print which folder it enters.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    planned = subprocess.run(
        ["make", "--dry-run", "wheel", f"TAG={tag}"],
        cwd=ROOT,
        env=alone,
        capture_output=True,
        text=True,
    )
    checks = planned.stdout.splitlines()[0]
    assert (subprocess.run(checks, shell=True, cwd=ROOT).returncode == 0) is is_it
