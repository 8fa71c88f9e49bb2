"""A run of several processes has one directory: one writer, one lock, one history."""

from __future__ import annotations

import json

from processes import furthest, results_of


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """Stopped after two of four steps by a callback's error, and each line is written once."""
    whole = results_of(1, tmp_path / "one", "kept_run", JOB_STOP="9")[0]["kept_run"]
    place = tmp_path / "several"
    stopped = results_of(2, place, "kept_run", JOB_STOP="2")
    assert [each["kept_run"]["seen"] for each in stopped] == [[0, 1], [0, 1]]
    found = results_of(1, place, "kept_run", JOB_STOP="9")[0]["kept_run"]
    assert found["seen"] == [2, 3]
    assert furthest(whole["weights"], found["weights"]) < 5e-5
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    assert not (place / "run" / ".lock").exists()
    # And the other way round.
    place = tmp_path / "one first"
    results_of(1, place, "kept_run", JOB_STOP="2")
    for result in results_of(2, place, "kept_run", JOB_STOP="9"):
        assert furthest(whole["weights"], result["kept_run"]["weights"]) < 5e-5
    assert (place / "run" / "policy" / "model.safetensors").exists()
