"""Two and three processes do what one does: the same draws, weights, records and reports.

In float32, where sums in another order differ by 1e-6: five steps of AdamW make up to 1e-5 of it.
"""

from __future__ import annotations

import itertools

import jobs
import pytest
from processes import furthest, results_of

pytestmark = pytest.mark.long

JOBS = ("objectives", "lora", "verbs", "rewards")
WEIGHTS = 5e-5
FIGURES = 1e-4
"""Of records and reports. A single other draw would show as a thousandth."""


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return results_of(1, tmp_path_factory.mktemp("one"), *JOBS)[0]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several(request, tmp_path_factory):
    return results_of(request.param, tmp_path_factory.mktemp("several"), *JOBS)


def test_every_objective_ends_with_the_same_weights_and_its_own_parameters(one, several):
    for result in several:
        _same_runs(one["objectives"], result["objectives"])


def _same_runs(expected, found):
    assert expected.keys() == found.keys()
    for name, run in expected.items():
        assert furthest(run["weights"], found[name]["weights"]) < WEIGHTS, name
        for part in ("state", "records", "findings"):
            assert furthest(run[part], found[name][part]) < FIGURES, (name, part)


def test_all_processes_have_the_very_same_result(several):
    """To the bit: what they decide by is one number."""
    assert all(
        furthest(several[0], {**other, "rewards": several[0]["rewards"]}) == 0.0
        for other in several[1:]
    )


def test_a_lora_run_finds_the_same_rate_and_evaluates_the_same(one, several):
    """Not the first evaluation, of a policy that is the prior: its weights are rounding alone."""
    for result in several:
        for part in ("weights", "records", "findings"):
            assert furthest(one["lora"][part], result["lora"][part]) < FIGURES
        first, last = one["lora"]["evaluations"][-1], result["lora"]["evaluations"][-1]
        assert first["step"] == 4
        assert furthest(first, last) < FIGURES


def test_evaluate_sample_and_frontier_say_the_same(one, several):
    for result in several:
        assert furthest(one["verbs"], result["verbs"]) < FIGURES


def test_a_reward_is_asked_once_for_each_completion_where_it_was_drawn(one, several):
    asked = [result["rewards"]["asked"] for result in several]
    assert sorted(itertools.chain(*asked)) == sorted(one["rewards"]["asked"])
    assert all(asked)
    # The last draws are those of `sample`, in shares of neighbours.
    assert (
        list(itertools.chain(*(each[-len(each) // 2 :] for each in asked)))
        == one["rewards"]["drawn"]
    )


def test_what_a_reward_logs_is_of_all_completions(one, several):
    for result in several:
        assert result["rewards"]["lengths"] == pytest.approx(one["rewards"]["lengths"], abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_case_of_the_table_ends_with_the_same_weights(size, tmp_path):
    expected = results_of(1, tmp_path / "one", "every_case")[0]["every_case"]
    for result in results_of(size, tmp_path / "several", "every_case"):
        _same_runs(expected, result["every_case"])


def test_the_table_is_covered():
    assert {jobs.CASES[at].name for at in jobs.first_of_each_name()} == {
        case.name for case in jobs.CASES
    }
