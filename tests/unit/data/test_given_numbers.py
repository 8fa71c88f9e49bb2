"""Numbers that users give: none too large for a float, none that only looks like one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import posteriori as po
from posteriori.data.given_numbers import count, finite, in_short, positive
from posteriori.errors import ConfigError, DataError, EvidenceError, PosterioriError

LARGE = 10**400
LARGER = 10**5000


def a_target(fn=lambda completions, **_: [1.0] * len(completions)) -> po.Target:
    table = po.TabularLM.random(["<eos>", "a"], 2, ["p"], seed=0)
    return po.Target(table, po.Reward(fn, beta=1.0), table.prompts, 2)


@pytest.mark.parametrize("number", [0, -1, 2.5, np.float32(0.5), np.int64(3), torch.tensor(1.5)])
def test_numbers_of_all_kinds_are_numbers(number):
    assert finite(number) == float(number)


@pytest.mark.parametrize(
    "value", [True, "1", b"1", None, [], float("nan"), float("inf"), LARGE, -LARGE, 1j]
)
def test_what_is_no_finite_number_is_none(value):
    assert finite(value) is None
    assert positive(value) is None


def test_positive_numbers():
    assert positive(Fraction(1, 4)) == 0.25
    assert positive(0) is None
    assert positive(-1) is None


@pytest.mark.parametrize("value", [1.0, "3", None, True, 0, LARGE, LARGER], ids=range(7))
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ConfigError, match=r"num_samples=.* must be") as caught:
        count(value, "num_samples")
    assert len(str(caught.value)) < 200


def test_counts():
    assert count(np.int64(3), "n") == 3
    assert isinstance(count(np.int64(3), "n"), int)


def test_long_numbers_are_cut():
    assert in_short(LARGER) == "a number of about 5,000 digits"
    assert len(in_short(LARGE)) == 60
    assert in_short("a") == "'a'"


ASKED = {
    "a beta": lambda: po.Reward(len, beta=LARGER),
    "a largest reward": lambda: po.Reward(len, beta=1.0, max_reward=LARGER),
    "an alpha": lambda: po.Power(LARGER),
    "a wanted mean": lambda: po.Moments({"x": (len, LARGER)}),
    "a temper": lambda: a_target().tempered(LARGER),
    "a length": lambda: po.Target(a_target().prior, [], ["p"], LARGER),
    "draws": lambda: po.sample(a_target(), "importance", LARGER),
    "half a draw": lambda: po.evaluate(a_target(), a_target().prior, 10.5),
    "a rate": lambda: po.fit(a_target(), "rloo", steps=1, learning_rate=LARGE),
    "rewards": lambda: po.sample(a_target(lambda completions, **_: [LARGER] * len(completions))),
    "constraints": lambda: po.sample(
        po.Target(
            a_target().prior,
            po.Constraint(lambda completions, **_: [LARGER] * len(completions)),
            ["p"],
            2,
        )
    ),
    "a margin": lambda: po.fit_reward(
        "no model", [{"prompt": p, "chosen": "a", "rejected": "b", "margin": LARGE} for p in "ab"]
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_numbers_that_no_float_holds_are_refused_in_one_line(name):
    with pytest.raises(PosterioriError) as caught:
        ASKED[name]()
    assert len(str(caught.value)) < 400


def test_numbers_of_data_that_no_float_holds(tmp_path):
    lines = tmp_path / "prompts.jsonl"
    lines.write_text(f'{{"prompt": "a", "weight": {LARGE}}}\n')
    with pytest.raises(DataError, match="an integer of 401 digits is too large for a number"):
        po.prompts(lines)
    cells = tmp_path / "prompts.csv"
    cells.write_text(f"prompt,commit,weight,name\na,1234e567,2,{'7' * 5000}\n")
    # A hash that looks like a number stays the text that it is.
    columns = po.prompts(cells).columns
    assert columns == {"commit": ["1234e567"], "weight": [2], "name": ["7" * 5000]}


def test_evidence_error_of_a_large_answer_names_the_completion():
    target = a_target(lambda completions, **_: [LARGE] * len(completions))
    with pytest.raises(EvidenceError, match=r"it returned 1000.* for completion 0"):
        po.sample(target, "importance", 4)
