"""A run of several processes has one directory: one writer, one lock, one history."""

from __future__ import annotations

import json

import pytest
from processes import furthest, results_of

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run of one process that was not stopped."""
    place = tmp_path_factory.mktemp("whole")
    return results_of(1, place, "kept_run", JOB_STOP="9")[0]["kept_run"]["weights"]


def test_what_two_began_one_ends(whole, tmp_path):
    """Stopped after two of four steps by a callback's error; each line is written once."""
    stopped = results_of(2, tmp_path, "kept_run", JOB_STOP="2")
    assert [each["kept_run"]["seen"] for each in stopped] == [[0, 1], [0, 1]]
    found = results_of(1, tmp_path, "kept_run", JOB_STOP="9")[0]["kept_run"]
    assert found["seen"] == [2, 3]
    assert furthest(whole, found["weights"]) < 5e-5
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_what_one_began_two_end(whole, tmp_path):
    results_of(1, tmp_path, "kept_run", JOB_STOP="2")
    for result in results_of(2, tmp_path, "kept_run", JOB_STOP="9"):
        assert furthest(whole, result["kept_run"]["weights"]) < 5e-5
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()
