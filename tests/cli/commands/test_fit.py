"""`posteriori fit`: a run from a file, its directory, resuming, overrides and dry runs."""

from __future__ import annotations

import json

import pytest
import transformers
from safetensors.torch import load_file

import posteriori as po

FIGURES = {"log_z", "elbo", "kl_to_target", "kl_to_prior", "entropy", "mean_reward"}


def test_a_run_leaves_everything_in_its_directory(job):
    result = job.fit()
    assert result.code == 0, result.err
    names = {path.name for path in job.output.iterdir()}
    assert names >= {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "checkpoints",
        "policy",
        "evaluation.json",
        "report.html",
    }
    config = json.loads((job.output / "config.json").read_text())
    assert config["objective"] == "rloo"
    assert config["seed"] == 0
    assert config["prior"]["path"] == "model"
    assert len((job.output / "metrics.jsonl").read_text().splitlines()) == 4
    evaluation = json.loads((job.output / "evaluation.json").read_text())
    assert set(evaluation["policies"]) == {"prior", "rloo"}
    assert set(evaluation["policies"]["rloo"]["figures"]) >= FIGURES
    assert "<html" in (job.output / "report.html").read_text()
    assert transformers.AutoModelForCausalLM.from_pretrained(job.output / "policy") is not None


def test_the_table_puts_prior_and_policy_side_by_side(job):
    out = job.fit().out
    assert "prior" in out.splitlines()[1]
    assert "rloo" in out.splitlines()[1]
    assert "KL to target, nats" in out
    assert "±" in out
    assert str(job.output / "report.html") in out


def test_output_is_plain_where_nobody_watches(job):
    result = job.fit()
    assert "\x1b" not in result.out + result.err
    assert "rloo: step 4/4" in result.err
    assert "step 4/4" not in result.out


def test_quiet_says_nothing_but_the_result(job):
    assert job.fit("--quiet").err == ""


def test_json_is_one_document(job):
    result = job.fit("--json")
    figures = result.json["policies"]["rloo"]["figures"]
    kl = figures["kl_to_target"]
    assert isinstance(kl["value"], float)
    assert kl["standard_error"] > 0
    assert len(kl["per_prompt"]) == 2
    kept = json.loads((job.output / "evaluation.json").read_text())
    assert result.json == {**kept, "output_dir": str(job.output)}


def test_a_second_run_does_not_overwrite_the_first(job):
    job.fit()
    before = (job.output / "metrics.jsonl").read_bytes()
    result = job.fit()
    assert result.code == 2
    assert result.error == (
        f"'{job.output}' already holds a run; go on with it by --resume, remove it by --overwrite, "
        "or choose another output_dir (--set output_dir=runs/other)"
    )
    assert (job.output / "metrics.jsonl").read_bytes() == before
    assert job.fit("--set", "output_dir=runs/other").code == 0
    assert (job.folder / "runs" / "other" / "policy").is_dir()


FAILS_ONCE = """
import pathlib
broken = pathlib.Path(__file__).with_name("broken")

def score(completion_ids, trainer_state, **kwargs):
    if broken.exists() and trainer_state.global_step == 3:
        raise ConnectionError("the judge is away")
    return [sum(t == 2 for t in y) for y in completion_ids]
"""


def test_a_run_that_failed_goes_on_and_ends_with_the_same_weights(job):
    job.write("my_reward.py", FAILS_ONCE)
    assert job.fit("--set", "output_dir=runs/whole").code == 0
    job.write("broken", "")
    failed = job.fit("--quiet")
    assert failed.code == 1
    assert "it raised ConnectionError: the judge is away" in failed.error
    (job.folder / "broken").unlink()
    resumed = job.fit("--resume")
    assert resumed.code == 0, resumed.err
    assert "step 4/4" in resumed.err
    assert "step 1/4" not in resumed.err
    runs = job.folder / "runs"
    one, whole = (load_file(runs / r / "policy" / "model.safetensors") for r in ("one", "whole"))
    assert one.keys() == whole.keys()
    assert all(bool((one[name] == whole[name]).all()) for name in one)


def test_a_run_is_not_resumed_as_another(job):
    job.fit()
    result = job.fit("--resume", "--set", "fit.learning_rate=2e-2")
    assert result.code == 2
    assert "was made with learning_rate = 0.01, and this run has 0.02" in result.err


def test_a_run_with_other_prompts_is_another(job):
    job.fit()
    job.write("prompts.jsonl", '{"prompt": "d", "weight": 1}\n')
    result = job.fit("--resume")
    assert result.code == 2
    assert "was made with prompts_sha256" in result.err


def test_overrides_reach_every_depth(job):
    result = job.fit(
        "--dry-run",
        "--json",
        "--set",
        "fit.learning_rate=1e-3",
        "--set",
        "evidence.0.beta=0.25",
        "--set",
        "fit.policy=lora",
        "--set",
        "fit.lora.rank=4",
        "--set",
        "fit.objective=rl",
        "--set",
        'prompts=[{prompt = "a", weight = 1}, {prompt = "b", weight = 2}]',
    )
    config = result.json["config"]
    assert config["fit"]["learning_rate"] == 1e-3
    assert config["fit"]["objective"] == "rl"
    assert config["fit"]["lora"]["rank"] == 4
    assert config["evidence"][0]["beta"] == 0.25
    rows = [{"prompt": "a", "weight": 1}, {"prompt": "b", "weight": 2}]
    assert config["prompts"] == rows


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("fit.steps", "--set 'fit.steps' is not key=value; write --set fit.learning_rate=1e-3"),
        (
            "evidence.1.beta=1",
            "--set evidence.1.beta: 'evidence' is a list of 1, and '1' is none of its positions; "
            "write evidence.0 to evidence.0",
        ),
        (
            "prompts.first=a",
            "--set prompts.first: 'prompts' is a value, not a table; set prompts",
        ),
        (
            "fit.stps=3",
            "{config}: unknown key 'fit.stps'; did you mean 'steps'?",
        ),
        (
            "fit.learning_rate=fast",
            "{config}: 'fit.learning_rate' = 'fast' is not valid: input should be a valid number, "
            'or "auto"',
        ),
        (
            "fit.learning_rate=inf",
            "{config}: 'fit.learning_rate' = inf is not valid: input should be a finite number",
        ),
    ],
)
def test_an_override_that_cannot_be(job, nothing_loads, override, expected):
    result = job.fit("--set", override)
    assert result.code == 2
    assert result.error == expected.format(config=job.config)


def test_a_dry_run_loads_nothing_and_writes_nothing(job, nothing_loads):
    before = sorted(job.folder.rglob("*"))
    result = job.fit("--dry-run", "--set", "evaluate.num_samples=50")
    assert result.code == 0, result.err
    assert "fit.learning_rate = 0.01" in result.out
    assert "evaluate.num_samples = 50" in result.out
    assert "would run: rloo, 4 steps of 2 of 2 prompts x 4 draws of at most 3 tokens" in result.out
    assert sorted(job.folder.rglob("*")) == before


def test_what_a_dry_run_prints_can_be_set(job, nothing_loads):
    lines = job.fit("--dry-run").out.split("\n\n")[0].splitlines()
    again = job.fit("--dry-run", *(part for line in lines for part in ("--set", line)))
    assert again.code == 0, again.err
    assert again.out.split("\n\n")[0].splitlines() == lines


def test_paths_are_relative_to_the_config_and_not_to_where_one_stands(job, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert job.fit("--quiet").code == 0
    assert (job.output / "policy").is_dir()
    assert list(elsewhere.iterdir()) == []


REWARDS = {
    "nan": ("[float('nan')] * n", "it returned nan for completion 0"),
    "too few": ("[0.0]", "it returned 1 values for 8 completions"),
    "strings": ("['good'] * n", "it returned 'good' for completion 0"),
    "raises": ("1 / 0", "it raised ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("case", REWARDS)
def test_a_reward_that_is_none_fails_the_run(job, case):
    expression, expected = REWARDS[case]
    job.write(
        "my_reward.py",
        f"def score(completions, **kwargs):\n    n = len(completions)\n    return {expression}\n",
    )
    result = job.fit("--quiet")
    assert result.code == 1
    assert "reward function 'score'" in result.error
    assert expected in result.error


def test_a_function_file_that_fails_when_imported(job):
    job.write("my_reward.py", "import no_such_package\n\ndef score(**kwargs):\n    return []\n")
    result = job.fit("--quiet")
    assert result.code == 2
    assert "importing 'my_reward.py' raised ModuleNotFoundError" in result.error
    assert not job.output.exists()


def test_a_function_from_a_module_beside_the_config(job):
    package = job.folder / "my_rewards_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "simple.py").write_text(
        "def score(completions, **kwargs):\n    return [0.0] * len(completions)\n"
    )
    job.change("my_reward.py:score", "my_rewards_pkg.simple:score")
    assert job.fit("--quiet").code == 0


def test_a_prompt_longer_than_the_context_is_told_before_a_run_exists(job):
    job.write("prompts.txt", "a b\n" + "a " * 40 + "\n")
    job.write("my_reward.py", "def score(completions, **kwargs):\n    return [0.0] * 2\n")
    result = job.fit("--quiet", "--set", "prompts=prompts.txt")
    assert result.code == 2
    assert "the prompt has 40 tokens and max_new_tokens is 3" in result.error
    assert not job.output.exists()


def test_lora(job):
    job.change("learning_rate = 1e-2", 'learning_rate = 1e-2\npolicy = "lora"')
    assert job.fit("--quiet").code == 0
    assert (job.output / "policy" / "adapter_config.json").is_file()
    assert isinstance(po.load(job.output / "policy"), po.CausalLM)


def test_a_finding_that_says_stop_fails_the_command(job):
    # No draw satisfies the constraint, so nothing is known of the target.
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
        'kind = "constraint"\nfunction = "my_reward.py:never"',
    )
    result = job.evaluate(str(job.folder / "model"), "--quiet")
    assert result.code == 1
    assert "[stop] No draw of the policy or of the prior has any evidence" in result.out
