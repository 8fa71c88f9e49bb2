"""The JSON Schema of run files: what is in the repository fits it, and what is wrong does not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
from helpers import generator

import posteriori as po
from posteriori.config.read_config import read_config
from posteriori.errors import ConfigError

ROOT = Path(__file__).parents[3]
FILES = sorted(
    file
    for folder in ("examples", "experiments", "benchmarks", "src", "recipes")
    for file in (ROOT / folder).rglob("*.toml")
    if file.name != "pyproject.toml" and "plugin" not in file.parts
)
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{at}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for at, block in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    from posteriori.config.run_config import RunConfig
    from posteriori.config.schema import run_schema

    made = run_schema(RunConfig)
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def test_the_command_prints_it(cli, schema):
    assert cli("config", "schema").json == schema.schema
    assert "2020-12" in schema.schema["$schema"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_run_file_of_the_repository_fits(schema, file):
    schema.validate(tomllib.loads(file.read_text(encoding="utf-8")))


def test_there_are_run_files():
    assert FILES


@pytest.mark.parametrize("block", BLOCKS)
def test_every_table_of_the_docs_fits(schema, block):
    whole = {"prompts": ["a"], "max_new_tokens": 4, "evidence": [], **tomllib.loads(block)}
    if "fit" in whole:
        whole["fit"].setdefault("steps", 1)
    schema.validate(whole)


def test_the_run_of_the_tests_fits(schema, job):
    schema.validate(tomllib.loads(job.config.read_text()))


WRONG = {
    "a key": ("steps = 4", "steps = 4\nstepz = 1"),
    "a type": ("steps = 4", 'steps = "4"'),
    "a kind": ('kind = "reward"', 'kind = "rewrad"'),
    "a key of evidence": ("beta = 0.5", "bta = 0.5"),
    "a key of another way": ("beta = 0.5", 'beta = 0.5\nregex = "a"'),
    "an objective": ('objective = "rloo"', 'objective = "rlo"'),
    "a setting of the objective": (
        'objective = "rloo"',
        'objective = "grpo"\nobjective_settings = { clp = 0.1 }',
    ),
    "a setting of the sampler": (
        "[evaluate]",
        '[sample]\nsampler = "mh"\nsettings = { chains = 0 }\n[evaluate]',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_schema_refuses_the_config_refuses(schema, job, case):
    job.change(*WRONG[case])
    assert not schema.is_valid(tomllib.loads(job.config.read_text()))
    assert job.fit("--dry-run").code == 2


def test_load_target(job):
    target = po.load_target(job.config, ["evidence.0.beta=0.25"])
    assert target.prompts == ("a b", "c")
    assert target.columns["weight"] == [1, 0.5]
    assert target.max_new_tokens == 3
    assert target.evidence[0].beta == 0.25
    drawn = target.prior.sample(list(target.prompts), 2, 3, generator())
    assert target.log_density(drawn).total.isfinite().all()
    fitted = po.fit(po.load_target(str(job.config)), "rloo", steps=1, num_samples=2)
    assert fitted.objective == "rloo"


def test_load_target_says_what_is_wrong(job, nothing_loads):
    with pytest.raises(ConfigError, match=r"unknown key 'evidence\.0\.bta'; did you mean 'beta'"):
        po.load_target(job.config, ["evidence.0.bta=1.0"])
    with pytest.raises(ConfigError, match="there is no such file"):
        po.load_target(job.folder / "nowhere.toml")


def test_load_target_finds_the_beta_of_a_budget(job):
    job.change("beta = 0.5\n", "")
    job.change("steps = 4", "steps = 2\nkl_budget = 0.02\nbudget_samples = 200")
    with pytest.raises(ConfigError, match="kl_budget replaces beta, and no run has found it"):
        po.load_target(job.config)
    assert job.fit("--quiet").code in (0, 1)
    assert po.load_target(job.config).evidence[0].beta > 0


def test_a_table_that_is_no_table(job):
    text = job.config.read_text()
    job.config.write_text('evidence = ["a"]\n' + text[: text.index("[[evidence]]")])
    with pytest.raises(ConfigError, match=r"evidence\.0: 'a' is no table"):
        read_config(job.config, ["fit={steps = 1}"])
