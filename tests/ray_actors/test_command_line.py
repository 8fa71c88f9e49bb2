"""Ray from the command line and from a config's table."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

CONFIG = """
prompts = ["The food", "The place was"]
max_new_tokens = 6
[[evidence]]
kind = "reward"
function = "score.py:score"
beta = 2.0
[evaluate]
num_samples = 20
{more}
"""
SCORE = """
from helping import count

def score(completions, **_):
    print("asked")
    return [count(text) for text in completions]
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "score.py").write_text(SCORE)
    (tmp_path / "helping.py").write_text("def count(text):\n    return float(text.count('e'))\n")

    def call(*line: str, more: str = ""):
        (tmp_path / "run.toml").write_text(CONFIG.format(more=more))
        return subprocess.run(
            [sys.executable, "-m", "posteriori", *line],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
        )

    call.folder = tmp_path
    return call


def test_sample_writes_the_same_draws_by_option_and_by_table(run):
    texts = []
    for name, options, more in (
        ("here", (), ""),
        ("option", ("--actors", "1"), ""),
        ("table", (), "[ray]\nactors = 2"),
    ):
        line = ("sample", "run.toml", "-o", f"{name}.jsonl", "--num-samples", "20", "--quiet")
        result = run(*line, *options, more=more)
        assert result.returncode == 0, result.stderr
        file = run.folder / f"{name}.jsonl"
        texts.append([json.loads(each)["completion"] for each in file.read_text().splitlines()])
    assert len(texts[0]) == 40
    assert texts[0] == texts[1] == texts[2]


def test_evaluate_prints_one_document_and_frontier_its_curve(run):
    policy = ("--set", "output_dir=run", "--json", "--quiet", "--actors", "1")
    result = run("frontier", "run.toml", "--num-samples", "100", "--stages", "0", *policy)
    assert result.returncode in (0, 1), result.stderr
    assert json.loads(result.stdout)["points"]
    result = run("evaluate", "run.toml", "tiny", *policy)
    assert result.returncode in (0, 1), result.stderr
    assert json.loads(result.stdout)["num_samples"] == 20


def test_a_cluster_that_is_not_there_is_an_error_in_one_line(run):
    line = ("sample", "run.toml", "-o", "draws.jsonl", "--quiet")
    result = run(*line, "--ray-address", "ray://127.0.0.1:1")
    assert result.returncode == 2
    assert "the cluster at 'ray://127.0.0.1:1' cannot be reached" in result.stderr
    assert "Traceback" not in result.stderr
