"""`posteriori frontier`: the curve in words, in JSON, and what is asked of it."""

from __future__ import annotations

import pytest


def frontier(job, *arguments):
    return job.run(
        "frontier", str(job.config), "--num-samples", "300", "--stages", "0", "-q", *arguments
    )


def test_the_curve_and_what_is_asked_of_it(job):
    result = frontier(job, "--json", "--kl", "0.05", "--beta", "2.0")
    assert result.code == 0, result.err
    found = result.json
    kls = [point["kl"]["value"] for point in found["points"]]
    assert kls == sorted(kls)
    assert found["asked"]["KL 0.05"]["kl"]["value"] == pytest.approx(0.05, abs=1e-6)
    assert found["asked"]["beta 2"]["beta"] == pytest.approx(2.0)
    wanted = found["asked"]["KL 0.05"]["reward"]["value"]
    again = frontier(job, "--json", "--reward", str(wanted)).json["asked"]
    (point,) = again.values()
    assert point["beta"] == pytest.approx(found["asked"]["KL 0.05"]["beta"], rel=1e-4)
    assert [best["n"] for best in found["best_of_n"]] == [2, 4, 8, 16, 32]


def test_the_table_names_the_end(job):
    lines = frontier(job, "--kl", "0.05").out.splitlines()
    assert lines[1].split()[:3] == ["beta", "KL,", "nats"]
    assert any(line.startswith("KL 0.05 ") for line in lines)
    assert any(line.startswith("best of 2 ") for line in lines)
    assert lines[-1].startswith("[info] The frontier is known up to beta")


def test_beyond_the_end(job):
    result = frontier(job, "--kl", "500")
    assert result.code == 2
    assert "KL=500 lies beyond the frontier's end; it is known up to beta=" in result.error


def test_evidence_that_is_never_satisfied(job):
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
        'kind = "constraint"\nfunction = "my_reward.py:never"',
    )
    result = frontier(job)
    assert result.code == 1
    assert "[stop] The frontier is not known anywhere" in result.out
