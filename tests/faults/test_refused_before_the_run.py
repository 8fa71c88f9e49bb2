"""Settings, patterns and files that would fail later, hang, or run code: refused in one line."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import shutil
import sys

import pytest
import torch

import posteriori as po
from posteriori.cli.console.output import print_json
from posteriori.cli.main import main, run
from posteriori.errors import (
    ConfigError,
    EvidenceError,
    ModelError,
    PosterioriError,
    SamplingStopped,
    StoppedError,
)

CONFIG = """\
output_dir = "runs/one"
prompts = ["a b"]
max_new_tokens = 3
[prior]
path = "model"
[[evidence]]
kind = "reward"
function = "my_reward.py:score"
beta = 0.5
[fit]
objective = "rloo"
steps = 2
num_samples = 4
learning_rate = 1e-2
"""


@pytest.fixture
def job(tmp_path, case_1):
    (tmp_path / "model").symlink_to(case_1.path)
    (tmp_path / "my_reward.py").write_text(
        "def score(completions, **_): return [0.0] * len(completions)\n"
    )
    return tmp_path


LORA = 'steps = 2\npolicy = "lora"\nlora = {%s}'


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"runs/one"', '"a\\u0000b"', "NUL character"),
        ('"runs/one"', '"run.toml/x"', "is a file"),
        ('"runs/one"', '"/proc/x"', "nothing may be made"),
        ('"runs/one"', f'"{"a" * 5000}"', "too long"),
        ('path = "model"', 'path = ""', "is no path or name of a model"),
        ('path = "model"', f'path = "./{"m" * 5000}"', "is no path or name of a model"),
        ('path = "model"', 'path = "mo\\u0000del"', "is no path or name of a model"),
        ('path = "model"', 'path = "model"\ndevice = "gpu7"', "'prior.device'"),
        ('path = "model"', 'path = "model"\ndevice = "meta"', "'prior.device'"),
        ('path = "model"', 'path = "model"\nmemory_gib = 1e300', "'prior.memory_gib'"),
        ('path = "model"', 'path = "model"\ntrust_remote_code = true', "no revision"),
        ("steps = 2", "steps = 1" + "0" * 5000, "cannot be read"),
        ("steps = 2", "steps = " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ('"my_reward.py:score"', f'"{"n" * 5000}"', "..."),
        ("steps = 2", LORA % "rank = 1000000000", "'fit.lora.rank'"),
        ("steps = 2", LORA % "target_modules = '(('", "no regular expression"),
        ("steps = 2", LORA % "alpha = 1e308", "'fit.lora.alpha'"),
        ('kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
         'kind = "constraint"\nregex = "((a{1000}){1000}){1000}"', "repeats its parts"),
    ],
)  # fmt: skip
def test_what_the_dry_run_passes_runs(job, capsys, before, after, said):
    assert before in CONFIG
    (job / "run.toml").write_text(CONFIG.replace(before, after, 1))
    assert run(["fit", str(job / "run.toml"), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert len(error) < 3100


def test_an_error_that_nobody_has_foreseen_is_one_line(job, capsys, monkeypatch):
    (job / "run.toml").write_text(CONFIG)
    monkeypatch.setattr("posteriori.config.check.check_fit", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["posteriori", "fit", str(job / "run.toml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: an unexpected ZeroDivisionError: division by zero; report it")
    path = error.split("'")[-2]
    with open(path) as file:
        assert "check_fit" in file.read()
    os.remove(path)
    monkeypatch.setenv("POSTERIORI_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize("stated", ["gpu7", "meta", "cuda:99", ""])
def test_a_device_that_is_none(case_1, stated):
    with pytest.raises((ConfigError, ModelError), match="device"):
        po.load(case_1.path, device=stated)


@pytest.mark.parametrize("gib", [0, -1, math.inf, math.nan, 1e300])
def test_an_amount_of_memory_that_is_none(case_1, gib):
    with pytest.raises(ConfigError, match="amount of memory"):
        po.load(case_1.path, memory_gib=gib)


@pytest.mark.parametrize(
    "make",
    [
        lambda: po.constraints.regex("((a{1000}){1000}){1000}"),
        lambda: po.constraints.regex("(?:[x-z]{500}){500,}"),
        lambda: po.constraints.json_schema({"pattern": "((a{1000}){1000}){1000}"}),
        lambda: po.constraints.json_schema({"not": {"patternProperties": {"(a{999}){999}": {}}}}),
    ],
)  # fmt: skip
def test_a_pattern_that_would_take_all_memory(make):
    with pytest.raises(ConfigError, match="repeats its parts"):
        make()


def test_patterns_of_any_length_are_fine():
    po.constraints.regex("a" * 200_000)
    po.constraints.regex(r"[{}]{3}\d{4}-\d{2}(?:ab){,7}\{9{2}")


class TestCodeOfTheCheckpoint:
    @pytest.fixture
    def with_code(self, tmp_path, case_1):
        """A model whose code writes a file when it is run."""
        place, mark = tmp_path / "with_code", tmp_path / "ran"
        shutil.copytree(case_1.path, place)
        config = json.loads((place / "config.json").read_text())
        config["auto_map"] = {
            "AutoConfig": "own_code.OwnConfig",
            "AutoModelForCausalLM": "own_code.OwnModel",
        }
        config["model_type"] = "own_code"
        (place / "config.json").write_text(json.dumps(config))
        (place / "own_code.py").write_text(
            "from pathlib import Path\n"
            "from transformers import GPT2Config, GPT2LMHeadModel\n"
            f"Path({str(mark)!r}).touch()\n"
            "class OwnConfig(GPT2Config):\n    model_type = 'own_code'\n"
            "class OwnModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
        )
        return place, mark

    def test_it_does_not_run(self, with_code, monkeypatch):
        place, mark = with_code
        monkeypatch.setattr("builtins.input", lambda *_: "y")
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\n"))
        with pytest.raises(ModelError, match="cannot load"):
            po.load(place)
        with pytest.raises(ConfigError, match="no revision says which"):
            po.load(place, trust_remote_code=True)
        assert not mark.exists()

    def test_it_runs_where_the_user_says_so_and_names_the_revision(
        self, with_code, monkeypatch, tmp_path
    ):
        place, mark = with_code
        monkeypatch.setattr(
            "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
        )
        monkeypatch.setattr(sys, "path", list(sys.path))
        lm = po.load(place, trust_remote_code=True, revision="4f2a9c1")
        assert mark.exists()
        target = po.Target(
            lm, po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0), ["a"], 3
        )
        assert len(po.sample(target, "importance", 4)) == 4


def test_a_tokenizer_that_its_library_refuses(tmp_path, case_1):
    """It raises `Exception` itself."""
    place = tmp_path / "model"
    shutil.copytree(case_1.path, place)
    file = place / "tokenizer.json"
    file.write_text(file.read_text().replace('"single_word"', '"cingle_word"', 1))
    with pytest.raises(ModelError, match="cannot load"):
        po.load(place)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "load",
    [po.load, lambda place: po.Preferences(place, beta=1.0), lambda p: po.Reward(p, beta=1.0)],
)
@pytest.mark.parametrize("save", [torch.save, lambda evil, f: f.write_bytes(pickle.dumps(evil, 2))])
def test_weights_that_are_a_pickle_run_nothing(tmp_path, case_1, load, save):
    place = tmp_path / "model"
    shutil.copytree(case_1.path, place)
    (place / "model.safetensors").unlink()
    save(Evil(tmp_path / "ran"), place / "pytorch_model.bin")
    with pytest.raises(PosterioriError) as error:
        load(place)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_evidence_is_never_plus_infinity():
    table = po.TabularLM.random(["<eos>", "a", "b"], 3, ["p"], seed=1)
    target = po.Target(
        table, po.Reward(lambda completions, **_: [1e308] * len(completions), beta=0.5), ["p"], 3
    )
    for work in (
        lambda: po.sample(target, "importance", 16),
        lambda: po.sample(target, "annealed", 16),
        lambda: po.exact(target),
        lambda: po.evaluate(target, table, 50),
    ):
        with pytest.raises(EvidenceError, match="no finite number"):
            work()


@pytest.mark.moves_rng
def test_a_reward_that_changes_torch_for_the_process(case_1):
    def changes(completions, **_):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        return [1.0] * len(completions)

    target = po.Target(case_1.prior(), po.Reward(changes, beta=0.5), ["a b"], 3)
    po.fit(target, "rloo", steps=2, num_samples=4, learning_rate=1e-2)
    assert torch.get_default_device() == torch.device("cpu")


def test_a_number_beyond_all_floats_is_no_reward(case_1):
    target = po.Target(
        case_1.prior(),
        po.Reward(lambda completions, **_: [10**400] * len(completions), beta=1.0),
        ["a"],
        3,
    )
    with pytest.raises(EvidenceError, match="return one finite reward"):
        po.sample(target, "importance", 4)


@pytest.mark.parametrize(
    "error",
    [
        SamplingStopped("it stopped", hint="so", draws=[1]),
        StoppedError("it stopped", signal_number=15),
        ConfigError("wrong", where="here", hint="so"),
    ],
)
def test_errors_can_be_sent_to_other_processes(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_a_stream_in_the_c_locale(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"text": "café 🎲 \udc80"})
    stream.flush()
    assert b"caf" in raw.getvalue()
