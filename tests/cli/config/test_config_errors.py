"""Whatever is wrong with a config is one line that says what, where, and what to write instead."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("nothing_loads")

# What is changed in the config, and what is said of it after "<config>: ".
REFUSED = {
    "unknown key": (
        ("output_dir", "outputdir"),
        "unknown key 'outputdir'; did you mean 'output_dir'?",
    ),
    "unknown key in a table": (
        ("learning_rate", "learning_rat"),
        "unknown key 'fit.learning_rat'; did you mean 'learning_rate'?",
    ),
    "unknown key in a list": (
        ("beta = 0.5", "bta = 0.5"),
        "unknown key 'evidence.0.bta'; did you mean 'beta'?",
    ),
    "unknown table": (("[fit]", "[fitt]"), "unknown key 'fitt'; did you mean 'fit'?"),
    "a word for a table": (
        ("output_dir", 'reward = "tiny"\noutput_dir'),
        "'reward' = 'tiny' is not valid: write it as a table, [reward]",
    ),
    "one table for a list of them": (
        ("[[evidence]]", "[evidence]"),
        "'evidence' = {{'kind': 'reward', 'function': 'my_reward.py:score', 'beta':... is not "
        "valid: write it as a table, [[evidence]]",
    ),
    "infinite learning rate": (
        ("learning_rate = 1e-2", "learning_rate = inf"),
        "'fit.learning_rate' = inf is not valid: input should be a finite number",
    ),
    "learning rate that is no number": (
        ("learning_rate = 1e-2", "learning_rate = nan"),
        "'fit.learning_rate' = nan is not valid: input should be a finite number",
    ),
    "learning rate of zero": (
        ("learning_rate = 1e-2", "learning_rate = 0"),
        "'fit.learning_rate' = 0 is not valid: input should be greater than 0",
    ),
    "a string for a number": (
        ("steps = 4", 'steps = "4"'),
        "'fit.steps' = '4' is not valid: input should be a valid integer",
    ),
    "a yes for a number": (
        ("steps = 4", "steps = true"),
        "'fit.steps' = True is not valid: input should be a valid integer",
    ),
    "a fraction of a step": (
        ("steps = 4", "steps = 4.5"),
        "'fit.steps' = 4.5 is not valid: input should be a valid integer",
    ),
    "no steps": (("steps = 4\n", ""), "'fit.steps' is missing; write fit.steps = ..."),
    "no length": (
        ("max_new_tokens = 3\n", ""),
        "'max_new_tokens' is missing; write max_new_tokens = ...",
    ),
    "no prompts": (
        ('prompts = "prompts.jsonl"\n', ""),
        "'prompts' is missing; write prompts = ...",
    ),
    "an empty list of prompts": (
        ('prompts = "prompts.jsonl"', "prompts = []"),
        "'prompts' = [] is not valid: write a file name (.jsonl, .csv, .parquet, ..) or a list of "
        'strings, such as ["The food here is"]',
    ),
    "a number among the prompts": (
        ('prompts = "prompts.jsonl"', 'prompts = ["a", 1]'),
        "'prompts' = ['a', 1] is not valid: write a file name (.jsonl, .csv, .parquet, ..) or a "
        'list of strings, such as ["The food here is"]',
    ),
    "unknown decay": (
        ("steps = 4", 'steps = 4\ndecay = "linaer"'),
        "'fit.decay' = 'linaer' is not valid: input should be 'linear', 'cosine', 'late' or 'none'",
    ),
    "one draw to judge by": (
        ("num_samples = 40", "num_samples = 1"),
        "'evaluate.num_samples' = 1 is not valid: input should be greater than or equal to 2",
    ),
    "unknown objective": (
        ('objective = "rloo"', 'objective = "rlo"'),
        "fit.objective: unknown objective 'rlo'; did you mean 'rloo'?",
    ),
    "unknown evidence": (
        ('kind = "reward"', 'kind = "rewrad"'),
        "evidence.0.kind: unknown evidence 'rewrad'; did you mean 'reward'?",
    ),
    "a reward without its price": (
        ("beta = 0.5\n", ""),
        "evidence.0: 'beta' is missing; a reward needs it; write beta = 0.1",
    ),
    "a price of zero": (
        ("beta = 0.5", "beta = 0.0"),
        "'evidence.0.beta' = 0.0 is not valid: input should be greater than 0",
    ),
    "a likelihood with a price": (
        ('kind = "reward"', 'kind = "likelihood"'),
        "evidence.0: a likelihood has no 'beta'; remove it; only a reward has a beta",
    ),
    "a constraint that is a model": (
        (
            'kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
            'kind = "constraint"\nmodel = "model"',
        ),
        "evidence.0: a constraint cannot be a 'model'; give it as function = ...",
    ),
    "neither function nor model": (
        ('function = "my_reward.py:score"\n', ""),
        "evidence.0: 'function' is missing; write function = \"my_reward.py:score\" or "
        'model = "a sequence-classification model"',
    ),
    "function and model": (
        ("beta = 0.5", 'beta = 0.5\nmodel = "model"'),
        "evidence.0: both 'function' and 'model' are given; write function = "
        '"my_reward.py:score" or model = "a sequence-classification model"',
    ),
    "a misspelt function": (
        ("my_reward.py:score", "my_reward.py:scoer"),
        "evidence.0.function: '{folder}/my_reward.py' defines no 'scoer'; did you mean 'score'?",
    ),
    "no function named": (
        ("my_reward.py:score", "my_reward.py"),
        "evidence.0.function: 'my_reward.py' does not name a function; write function = "
        '"my_reward.py:score" or "package.module:score"',
    ),
    "a missing file of functions": (
        ("my_reward.py:score", "your_reward.py:score"),
        "evidence.0.function: there is no file '{folder}/your_reward.py'; paths are relative to "
        "the config",
    ),
    "a missing module": (
        ("my_reward.py:score", "no_such_package.rewards:score"),
        "evidence.0.function: there is no module 'no_such_package.rewards'; write function = "
        '"my_reward.py:score" or "package.module:score"',
    ),
    "a missing prior": (
        ('path = "model"', 'path = "./modle"'),
        "prior.path: there is no model at '{folder}/modle'; check the path, or use one that is "
        "bundled: tiny",
    ),
    "a prior that is no model": (
        ('path = "model"', 'path = "runs"'),
        "prior.path: '{folder}/runs' holds no model: it has neither config.json nor "
        "adapter_config.json; give a directory that save_pretrained wrote",
    ),
    "a missing prior in a folder that is there": (
        ('path = "model"', 'path = "runs/modle"'),
        "prior.path: there is no model at '{folder}/runs/modle'; check the path, or use one that "
        "is bundled: tiny",
    ),
    "a slip in a bundled name": (
        ('path = "model"', 'path = "tinny"'),
        "prior.path: there is no model at '{folder}/tinny'; check the path, or use one that is "
        "bundled: tiny",
    ),
    "a missing GGUF file": (
        ('path = "model"', 'path = "model.gguf"'),
        "prior.path: there is no model at '{folder}/model.gguf'; check the path, or use one that "
        "is bundled: tiny",
    ),
    "a missing reward model": (
        ('function = "my_reward.py:score"', 'model = "./scorer"'),
        "evidence.0.model: there is no model at '{folder}/scorer'; check the path, or use one "
        "that is bundled: tiny",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_told_before_anything_is_loaded(job, case):
    (old, new), expected = REFUSED[case]
    (job.folder / "runs").mkdir()
    job.change(old, new)
    result = job.fit()
    assert result.code == 2
    assert result.error == f"{job.config}: {expected.format(folder=job.folder)}"


def test_a_wrong_setting_is_told_by_a_dry_run_too(job):
    job.change("steps = 4", "steps = 0")
    assert "'fit.steps' = 0" in job.fit("--dry-run").error


def test_a_missing_config(job):
    result = job.run("fit", "nowhere.toml")
    assert result.code == 2
    assert result.error == "nowhere.toml: there is no such file; give the path of a TOML config"


def test_a_directory_for_a_config(job):
    error = job.run("fit", str(job.folder)).error
    assert error == f"{job.folder}: is a directory; give the path of a TOML config"


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", 2), ('a = 1\n\nb = "open', 3), ("[fit\n", 1)],
)
def test_broken_toml_names_its_line(job, text, line):
    job.write("run.toml", text)
    error = job.fit().error
    assert error.startswith(f"{job.config}:{line}: not valid TOML: ")
    assert error.endswith('; strings need quotes, as in path = "tiny"')


def test_toml_that_is_not_utf8_names_its_line(job):
    job.write("run.toml", b'a = 1\nb = "\xff"\n')
    error = job.fit().error
    assert error == f"{job.config}:2: not UTF-8 text; save the file as UTF-8"


def test_a_function_file_with_a_syntax_error_names_its_line(job):
    job.write("my_reward.py", "x = 1\ndef score(:\n")
    error = job.fit().error
    assert f"evidence.0.function: '{job.folder}/my_reward.py:2' is not Python" in error


def test_fit_needs_its_table_and_a_place(job):
    text = job.config.read_text()
    job.write("run.toml", text.replace(text[text.index("[fit]") : text.index("[evaluate]")], ""))
    assert job.fit().error == (
        f"{job.config}: 'fit' is missing; write a table [fit] with steps = 200"
    )
    job.write("run.toml", text.replace('output_dir = "runs/one"\n', ""))
    assert job.fit().error.startswith(f"{job.config}: 'output_dir' is missing; write output_dir")


def test_a_list_of_lora_modules_is_taken(job):
    modules = '["c_attn", "c_proj"]'
    chosen = ["--set", "fit.policy=lora", "--set", f"fit.lora.target_modules={modules}"]
    result = job.fit("--dry-run", "--json", *chosen)
    assert result.json["config"]["fit"]["lora"]["target_modules"] == ["c_attn", "c_proj"]


@pytest.mark.parametrize(
    "change",
    ['prompts = "~nobody-of-that-name/p.jsonl"', 'output_dir = "~nobody-of-that-name/runs"'],
)
def test_a_home_of_nobody_is_a_path_like_others(job, change):
    name = change.split(" = ")[0]
    line = next(each for each in job.config.read_text().splitlines() if each.startswith(name))
    job.change(line, change)
    result = job.fit("--dry-run")
    assert result.code == (0 if name == "output_dir" else 2)
    assert "Traceback" not in result.err
