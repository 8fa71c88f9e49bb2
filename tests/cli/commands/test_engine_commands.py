"""A run file's engine, and policies that are judged by a url."""

from __future__ import annotations

import pytest
from engine_fakes import Fake
from engine_server import serving
from helpers import tiny_lm

import posteriori as po


def test_a_served_policy_is_judged_beside_the_prior(job):
    prior = po.load(job.folder / "model")
    with serving(prior) as served:
        result = job.evaluate("--url", served.url, "--json", "--quiet")
        named = job.evaluate("--url", served.url, "--served-model", "small", "--json", "--quiet")
    assert result.code == 0, result.err
    assert list(result.json["policies"]) == ["prior", "served"]
    assert abs(result.json["policies"]["served"]["figures"]["kl_to_prior"]["value"]) < 1e-4
    one, other = (each.json["policies"]["served"]["figures"] for each in (named, result))
    assert one == other


def test_a_server_that_tempers_is_exit_code_one(job):
    prior = tiny_lm(seed=3)
    fake = Fake(sabotage="temperature", temperature=0.4)
    with serving(prior, fake) as served:
        result = job.evaluate("--url", served.url, "--num-samples", "300", "--json", "--quiet")
    assert result.code == 1
    names = [each["name"] for each in result.json["policies"]["served"]["findings"]]
    assert "served_otherwise" in names or "served_weights" in names


def test_a_table_names_the_engine_of_fit_sample_and_frontier(job):
    prior = po.load(job.folder / "model")
    with serving(prior) as served:
        table = f'[engine]\nbackend = "http"\nurl = "{served.url}"\n\n[fit]\npolicy = "lora"\n'
        job.change("[fit]\n", table)
        fitted = job.fit("--quiet")
        assert fitted.code == 0, fitted.err
        metrics = (job.output / "metrics.jsonl").read_text()
        assert metrics.count('"engine_kl"') == 4
        asked = len(served.asked)
        drawn = job.sample("--quiet", "--num-samples", "5", "--output", str(job.folder / "d.jsonl"))
        assert drawn.code == 0, drawn.err
        assert len(served.asked) > asked
        asked = len(served.asked)
        curve = job.run(
            "frontier", str(job.config), "--num-samples", "100", "--quiet", "--stages=0"
        )
        assert curve.code in (0, 1), curve.err
        assert len(served.asked) > asked


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ('backend = "http"', "needs the server's url"),
        ('backend = "vllm"\nurl = "http://localhost:1/v1"', "'url' does nothing"),
        ('backend = "vlm"', "engine"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_is_loaded(job, table, what):
    job.change("[fit]\n", f"[engine]\n{table}\n\n[fit]\n")
    result = job.fit("--dry-run")
    assert result.code == 2
    assert what in result.err


def test_a_name_without_a_url(job):
    result = job.evaluate("--served-model", "x", "--quiet")
    assert result.code == 2
    assert "--url" in result.err
