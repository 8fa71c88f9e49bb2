"""The package of `examples/plugin`: used by name from a run file, with nothing changed here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

import posteriori as po
from posteriori.errors import ConfigError

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"


def install(place: Path, package: Path, name: str | None = None) -> Path:
    """A package's sources and its entry points as pip would leave them, without pip or network."""
    about = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    shutil.copytree(package / "src", place, dirs_exist_ok=True)
    meta = place / f"{(name or about['name']).replace('-', '_')}-{about['version']}.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name or about['name']}\nVersion: {about['version']}\n"
    )
    lines = []
    for group, points in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (meta / "entry_points.txt").write_text("\n".join(lines))
    return place


@pytest.fixture
def plugin(tmp_path_factory, monkeypatch) -> Path:
    place = install(tmp_path_factory.mktemp("site"), PLUGIN)
    for name in [each for each in sys.modules if each.startswith("posteriori_example")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(place))
    return place


@pytest.fixture
def run_file(plugin, tmp_path) -> Path:
    """The package's own run, made small and with its output beside it."""
    text = (PLUGIN / "run" / "run.toml").read_text()
    for old, new in (
        ("../../../runs/plugin", "runs/plugin"),
        ("steps = 20", "steps = 2"),
        ("num_samples = 200", "num_samples = 20"),
    ):
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "run.toml"
    file.write_text(text)
    return file


def test_pip_installs_it_without_a_network(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    source = shutil.copytree(PLUGIN, tmp_path / "source")
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(tmp_path / "site"), str(source)], check=True
    )
    (found,) = distributions(path=[str(tmp_path / "site")])
    made = {(point.group, point.name) for point in found.entry_points}
    assert ("posteriori.evidence", "brevity") in made
    assert len(made) == 3


def test_it_is_listed(plugin, cli):
    found = cli("ls", "--json").json
    assert found["objectives"]["clipped_rloo"].endswith(
        "(of the package 'posteriori-example' (posteriori_example.clipped_rloo:ClippedRLOO))"
    )
    assert "(properly weighted)" in found["samplers"]["defensive"]
    assert found["evidence"]["brevity"].startswith("Evidence that a reader has no time")


def test_a_dry_run_checks_it(run_file, cli):
    shown = cli("fit", str(run_file), "--dry-run")
    assert shown.code == 0
    assert "evidence.0.nats_per_token = 0.5" in shown.out
    assert "clipped_rloo, 2 steps" in shown.out


WRONG = {
    "evidence": (
        'evidence.0.kind="brevitee"',
        "evidence.0.kind: unknown evidence 'brevitee'; did you mean 'brevity'?",
    ),
    "a key of it": (
        "evidence.0.nats_per_tokn=1.0",
        "unknown key 'evidence.0.nats_per_tokn'; did you mean 'nats_per_token'?",
    ),
    "a value of it": (
        "evidence.0.nats_per_token=-1.0",
        "'evidence.0.nats_per_token' = -1.0 is not valid: input should be greater than 0",
    ),
    "its own check": (
        "evidence.0.free=20000",
        "evidence.0: 'free' = 20000 is above any length; lower it",
    ),
    "a function, which it has not": (
        'evidence.0.function="my.py:f"',
        "evidence.0: 'function' means nothing to brevity; it has: nats_per_token, free",
    ),
    "objective": (
        'fit.objective="cliped_rloo"',
        "fit.objective: unknown objective 'cliped_rloo'; did you mean 'clipped_rloo'?",
    ),
    "a setting of the objective": (
        "fit.objective_settings={mots = 1.0}",
        "fit.objective_settings: unknown key 'mots'; did you mean 'most'?",
    ),
    "sampler": (
        'sample.sampler="defensiv"',
        "sample.sampler: unknown sampler 'defensiv'; did you mean 'defensive'?",
    ),
    "a setting of the sampler": (
        "sample.settings={share = 2.0}",
        "sample.settings: 'share' = 2.0 is not valid: input should be less than 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_by_a_dry_run(run_file, cli, nothing_loads, case):
    override, expected = WRONG[case]
    result = cli("fit", str(run_file), "--dry-run", "--set", override)
    assert result.code == 2
    assert result.error == f"{run_file}: {expected}"


def test_a_fit_and_draws_from_the_file(run_file, cli, tmp_path):
    assert cli("fit", str(run_file), "--quiet").code in (0, 1)
    record = json.loads((tmp_path / "runs" / "plugin" / "config.json").read_text())
    assert record["objective_settings"] == {"most": 5.0}
    assert record["evidence"] == [{"kind": "brevity", "nats_per_token": 0.5, "free": 2}]
    drawn = cli("sample", str(run_file), "-o", str(tmp_path / "draws.jsonl"), "--quiet")
    assert drawn.code == 0, drawn.err
    rows = [json.loads(line) for line in (tmp_path / "draws.jsonl").read_text().splitlines()]
    assert len(rows) == 128
    assert max(row["log_weight"] for row in rows) <= 0.7, "e / share is at most 2"


def test_the_same_from_python(run_file):
    target = po.load_target(run_file)
    assert target.evidence[0].nats_per_token == 0.5
    draws = po.sample(target, "defensive", 200, share=0.5)
    exact = po.sample(target, "rejection", 200)
    assert draws.log_z.value == pytest.approx(exact.log_z.value, abs=1.0)


def test_a_name_taken_twice_names_both(plugin, tmp_path_factory, monkeypatch, run_file, cli):
    other = tmp_path_factory.mktemp("other")
    package = shutil.copytree(PLUGIN, other / "source")
    about = package / "pyproject.toml"
    about.write_text(about.read_text().replace("posteriori_example.brevity", "other.brevity"))
    monkeypatch.syspath_prepend(str(install(other / "site", package, "posteriori-other")))
    for arguments in (("fit", str(run_file), "--dry-run"), ("ls",)):
        error = cli(*arguments).error
        assert "the evidence 'brevity' is taken twice" in error
        assert "'posteriori-example' (posteriori_example.brevity:Brevity)" in error
        assert "'posteriori-other' (other.brevity:Brevity)" in error


def test_a_plugin_that_cannot_be_imported_or_made(plugin, run_file, cli):
    place = plugin / "posteriori_example"
    sys.modules.pop("posteriori_example.brevity", None)
    text = (place / "brevity.py").read_text()
    (place / "brevity.py").write_text(text.replace("po.Configured", "object"))
    error = cli("fit", str(run_file), "--dry-run").error
    assert "and a config cannot make it; its class has to be a posteriori.Configured" in error
    sys.modules.pop("posteriori_example.brevity", None)
    (place / "brevity.py").write_text("import no_such_package")
    error = cli("fit", str(run_file), "--dry-run").error
    assert "importing it raised ModuleNotFoundError: No module named 'no_such_package'" in error
    sys.modules.pop("posteriori_example.brevity", None)
    with pytest.raises(ConfigError, match="posteriori-example"):
        po.load_target(run_file)


TOY = '''\
"""Twist, model loader and reward model of a test."""

import torch

import posteriori as po


class Half(po.Twist):
    """psi_t = 1/2 for all prefixes."""

    name = "half"

    class Settings(po.Strict):
        log_psi: float = -0.7

    def log_psi(self, prefixes):
        return torch.full((len(prefixes.completions),), self.settings.log_psi).double()


class Table(po.Configured):
    class Settings(po.Strict):
        scale: float = 1.0

    @classmethod
    def from_settings(cls, settings, site):
        return po.TabularLM.random(["</s>", "a", "b"], 3, ["a", "b"], scale=settings.scale)


class Ends(po.Configured):
    class Settings(po.Strict):
        points: float

    @classmethod
    def from_settings(cls, settings, site):
        def ends(completion_ids, **kwargs):
            return [settings.points * (0 in ids) for ids in completion_ids]

        return ends
'''

TOY_RUN = """\
prompts = ["a", "b"]
max_new_tokens = 3
[prior]
loader = "table"
settings = { scale = 0.5 }
[[evidence]]
kind = "reward"
reward_model = "ends"
settings = { points = 2.0 }
beta = 1.0
[sample]
sampler = "smc"
num_samples = 16
settings = { twist = { name = "half", log_psi = -1.0 } }
"""


@pytest.fixture
def toys(tmp_path, monkeypatch) -> Path:
    site = tmp_path / "site"
    meta = site / "toys-1.dist-info"
    meta.mkdir(parents=True)
    (site / "toys.py").write_text(TOY)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    (meta / "entry_points.txt").write_text(
        "[posteriori.twists]\nhalf = toys:Half\n[posteriori.models]\ntable = toys:Table\n"
        "[posteriori.reward_models]\nends = toys:Ends\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    file = tmp_path / "run.toml"
    file.write_text(TOY_RUN)
    return file


def test_twists_loaders_and_reward_models_of_plugins(toys, cli, tmp_path):
    found = cli("ls", "--json").json
    assert found["twists"]["half"].startswith("psi_t = 1/2")
    assert set(found["models"]) == {"tiny", "table"}
    assert set(found["reward_models"]) == {"ends"}
    target = po.load_target(toys)
    assert isinstance(target.prior, po.TabularLM)
    assert po.exact(target).log_z[0] > 0
    out = tmp_path / "draws.jsonl"
    drawn = cli("sample", str(toys), "-o", str(out), "--quiet")
    assert drawn.code in (0, 1), drawn.err
    assert len(out.read_text().splitlines()) == 32


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ('prior.loader="tabel"', "prior.loader: unknown model 'tabel'; did you mean 'table'?"),
        ("prior.settings={scal = 1.0}", "prior.settings: unknown key 'scal'; did you mean 'scale'"),
        ('prior.dtype="float32"', "prior: 'dtype' does nothing beside a loader"),
        ('evidence.0.reward_model="end"', "unknown reward model 'end'; did you mean 'ends'?"),
        ("evidence.0.settings={}", "evidence.0.settings: 'points' is missing"),
        ('sample.settings={twist = "hlf"}', "unknown twist 'hlf'; did you mean 'half'?"),
        ('sample.settings={twist = {name = "half", psi = 1}}', "unknown key 'psi'"),
    ],
)
def test_what_is_wrong_with_them(toys, cli, override, expected, tmp_path):
    result = cli("sample", str(toys), "-o", str(tmp_path / "d.jsonl"), "--set", override)
    assert result.code == 2
    assert expected in result.error
