"""Completions, estimates, findings, errors, and names that are looked up."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from scipy import stats

import posteriori as po
from posteriori import errors
from posteriori.core import registry
from posteriori.core.estimates import combine, mean
from posteriori.core.seeds import derive, generator

IDS = [[1, 0], [2, 2, 0], [0], [3, 1, 2]]


@pytest.fixture
def completions(gpt2) -> po.Completions:
    return gpt2.completions(["a", "b c", "a", "d"], IDS, 3)


def test_completions_know_their_rows(completions):
    assert len(completions) == 4
    assert completions.completion_ids == IDS
    assert completions.prompts == ["a", "b c", "a", "d"]
    assert completions.prompt_set == ("a", "b c", "d")
    assert completions.lengths_N.tolist() == [2, 3, 1, 3]
    assert completions.ended_N.tolist() == [True, True, True, False]
    assert completions.truncated_N.tolist() == [False, False, False, True]
    assert completions.mask_NL.sum(1).tolist() == [2, 3, 1, 3]
    assert completions.log_prob_N is None


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        ([2, 0], [2, 0]),
        ([1, 1, 1], [1, 1, 1]),
        (slice(1, 3), [1, 2]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (torch.tensor([3]), [3]),
    ],
)
def test_rows_are_selected_in_any_way(completions, index, rows):
    chosen = completions.select(index)
    assert chosen.completion_ids == [IDS[row] for row in rows]
    assert chosen.prompts == [completions.prompts[row] for row in rows]


def test_a_single_prompt_serves_all(gpt2):
    assert gpt2.completions(["a"], IDS, 3).prompts == ["a"] * 4


def test_what_is_an_outcome_depends_on_the_length(completions):
    completions.check_outcomes(3)
    with pytest.raises(errors.OutcomeError, match="does not end and is short of"):
        completions.check_outcomes(4)
    with pytest.raises(errors.OutcomeError, match="is longer than"):
        completions.check_outcomes(2)


def test_a_mean_and_its_error():
    estimate = mean(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (estimate.value, estimate.kind, estimate.num_draws) == (2.5, "unbiased", 4)
    wider = stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975)
    assert estimate.standard_error == pytest.approx(wider * math.sqrt(5 / 12))
    assert float(estimate) == 2.5
    assert str(estimate) == "2.5 ± 1"
    many = torch.arange(30.0)
    assert mean(many).standard_error == pytest.approx(float(many.std()) / math.sqrt(30))


def test_an_infinity_that_was_seen_is_certain():
    estimate = mean(torch.tensor([0.0, -math.inf]))
    assert (estimate.value, estimate.standard_error, estimate.kind) == (-math.inf, 0.0, "exact")


def test_one_prompt_says_nothing_about_other_prompts():
    alone = combine([mean(torch.tensor([1.0, 2.0]))], "unbiased")
    assert alone.standard_error_new_prompts is None


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "bad"),
        ({"where": "here"}, "here: bad"),
        ({"hint": "do this"}, "bad; do this"),
        ({"where": "here", "hint": "do this"}, "here: bad; do this"),
    ],
)
def test_errors_say_what_where_and_what_next(parts, text):
    assert str(errors.PosterioriError("bad", **parts)) == text


def test_every_error_is_of_the_family():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert len(kinds) > 10
    assert all(issubclass(kind, po.PosterioriError) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rlo", "did you mean 'rloo'?"),
        ("zzz", f"known: {', '.join(sorted(registry.names('objective')))}"),
    ],
)
def test_an_unknown_name_gets_a_hint(name, hint):
    with pytest.raises(errors.UnknownNameError) as caught:
        registry.find("objective", name)
    assert caught.value.hint == hint


@pytest.mark.parametrize("kind", ["objective", "sampler", "evidence", "twist"])
def test_every_registered_name_can_be_found(kind):
    for name in registry.names(kind):
        assert callable(registry.find(kind, name))


def test_a_name_taken_twice_is_an_error_that_names_both(monkeypatch):
    class Point:
        name, value = "rloo", "json:loads"

    class Other:
        name, value = "rloo", "json:dumps"

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point])
    with pytest.raises(errors.ConfigError, match=r"built in and of a plugin \(json:loads\)"):
        registry.find("objective", "rloo")
    assert registry.find("objective", "tb").__name__ == "TB"
    with pytest.raises(errors.ConfigError, match="'rloo' is taken twice"):
        registry.check_names("objective")
    Point.name = Other.name = "mine"
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point, Other, Other])
    with pytest.raises(errors.ConfigError, match=r"\(json:loads\) and .*\(json:dumps\)"):
        registry.find("objective", "mine")


def test_a_plugin_is_found_by_its_name(monkeypatch):
    class Point:
        name, value = "mine", "json:loads"

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point])
    assert registry.find("objective", "mine").__name__ == "loads"


def test_streams_depend_on_seed_and_name_alone():
    def first(*path):
        return torch.rand(3, generator=generator(*path)).tolist()

    assert first(0, "fit", 3) == first(0, "fit", 3)
    others = [(1, "fit", 3), (0, "fit", 4), (0, "evaluate", 3), (0, "fit"), (0, "fit", 31)]
    assert len({tuple(first(*path)) for path in [(0, "fit", 3), *others]}) == 6
    assert all(0 <= derive(seed, "x") < 2**63 for seed in range(100))


def test_the_public_names_are_there():
    for name in po.__all__:
        assert getattr(po, name) is not None
    assert set(po.__all__) == set(dir(po))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = po.nothing


def test_importing_the_package_needs_no_torch():
    code = "import sys, posteriori; assert 'torch' not in sys.modules; posteriori.PosterioriError"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_estimate_shows_its_error_where_there_is_one():
    assert str(po.Estimate(1.23456, 0.0123, "consistent", 10)) == "1.235 ± 0.012"
    assert str(po.Estimate(0.26871, math.nan, "heuristic", 10)) == "0.2687"
