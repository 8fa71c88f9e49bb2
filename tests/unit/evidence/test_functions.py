"""Errors of users' functions: with the file and the line, and before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

import posteriori as po
from posteriori.errors import EvidenceError
from posteriori.models.tabular import TabularLM


@pytest.fixture
def table():
    return TabularLM.random(["<eos>", "x", "y"], prompts=["a", "b"], seed=0, max_new_tokens=2)


def inner(text):
    raise ValueError("no answer")


def raises(completions, **kwargs):
    return [inner(text) for text in completions]


def returns_words(completions, **kwargs):
    return ["good" for _ in completions]


def returns_too_few(completions, **kwargs):
    return [1.0]


def needs(completions, answer, **kwargs):
    return [float(each) for each in answer]


def needs_by_keyword(*, solution, **kwargs):
    return [1.0 for _ in solution]


class Judge:
    def __call__(self, completions, **kwargs):
        return None


@pytest.mark.parametrize("fn", [raises, returns_words, returns_too_few, Judge()])
@pytest.mark.parametrize("kind", [lambda fn: po.Reward(fn, beta=1.0), po.Constraint, po.Likelihood])
def test_an_error_says_the_file_and_the_line(table, fn, kind):
    target = po.Target(table, kind(fn), ["a"], 2)
    with pytest.raises(EvidenceError) as caught:
        po.evaluate(target, table, num_samples=4)
    assert __file__ in str(caught.value)
    line = str(caught.value).rpartition(__file__ + ":")[2].split(")")[0]
    source = Path(__file__).read_text().split("\n")[int(line) - 1]
    expected = "raise ValueError" if fn is raises else "def "
    assert expected in source


@pytest.mark.parametrize("fn", [needs, needs_by_keyword])
def test_a_missing_column_is_told_before_anything_runs(table, fn):
    for make in (lambda: po.Reward(fn, beta=1.0), lambda: po.Constraint(fn)):
        with pytest.raises(EvidenceError, match="that nothing provides") as caught:
            po.Target(table, make(), ["a"], 2)
        assert f"{__file__}:" in str(caught.value)
    po.Target(table, po.Reward(needs, beta=1.0), [{"prompt": "a", "answer": 1}], 2)
