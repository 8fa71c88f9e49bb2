"""Constraints and verifiers: patterns as people write them, models of pydantic, phone numbers."""

from __future__ import annotations

import json
import re

import pydantic
import pytest
from acts import in_one_line, matches, target

import posteriori as po

PHONE = r"[0-9]{3}-[0-9]{4}"


class Answer(pydantic.BaseModel):
    yes: bool


PATTERNS = {
    "an escaped dollar": r"\$[0-9]+",
    "an escaped brace": r"\{[a-z]{1,4}\}",
    "an escaped star": r"\*+",
    "a class with a brace": r"[^{}]*",
    "choices": r"(yes|no)",
    "a phone number": PHONE,
    "any case": r"(?i)yes|no",
    "a boundary": r"good\b.*",
    "anchors": r"^[a-z ]+$",
    "a named group": r"(?P<word>[a-z]+)",
    "letters of any script": r"\p{L}+",
}


@pytest.mark.parametrize("act", PATTERNS)
def test_a_pattern_is_kept_to(act):
    constraint = po.constraints.regex(PATTERNS[act])
    draws = po.sample(target(["You are"], constraint, 10), "smc", num_samples=16, seed=0)
    alive = [text for text, w in zip(draws.texts, draws.log_weight, strict=True) if w > -1e300]
    assert len(alive) >= 8


def test_a_phone_number_keeps_every_particle():
    draws = po.sample(target(["Call me at"], po.constraints.regex(PHONE), 12), "smc", 64)
    assert bool((draws.log_weight > float("-inf")).all())
    assert all(re.fullmatch(PHONE, text) for text in draws.texts)


def test_a_phone_number_can_be_drawn_by_rejection():
    draws = po.sample(target(["Call me at"], po.constraints.regex(PHONE), 12), "rejection", 16)
    assert len(draws) == 16
    assert all(re.fullmatch(PHONE, text) for text in draws.texts)
    assert draws.log_z.value > float("-inf")


def test_a_pydantic_model_is_a_constraint():
    draws = po.sample(target(["Is it?"], po.constraints.json_schema(Answer), 24), "smc", 16)
    right = [text for text, w in zip(draws.texts, draws.log_weight, strict=True) if w > -1e300]
    assert right
    assert all(isinstance(json.loads(text)["yes"], bool) for text in right)


def test_a_constraint_beside_a_reward():
    both = [po.Reward(lambda completions, **_: [float(len(c)) for c in completions], beta=5.0)]
    draws = po.sample(
        target(["You are"], [*both, po.constraints.regex("[a-z ]*")], 6), "smc", num_samples=16
    )
    assert draws.log_z.value > float("-inf")


def test_a_verifier_has_pass_at_k():
    rows = [{"prompt": "You are", "answer": "a"}]
    rates = po.pass_at_k(target(rows, po.Verifier(matches)), num_samples=16, k=[1, 4])
    figures = rates["prior"].figures
    assert 0 <= figures[1].value <= figures[4].value <= 1


MISTAKES = {
    "an open bracket": (lambda: po.constraints.regex("[a-z"), "regex"),
    "a pattern that is none": (lambda: po.constraints.regex(3), "write it as text"),
    "a schema of no kind": (lambda: po.constraints.json_schema({"type": "strng"}), "'strng'"),
    "a schema that refers to itself": (
        lambda: po.constraints.json_schema({"$ref": "#"}),
        "itself",
    ),
    "a twist of another name": (lambda: po.sample(target(), "smc", twist="prefx"), "prefix"),
    "a fine-tuning objective that cannot": (
        lambda: po.fit(
            target(evidence=po.constraints.regex("[0-9]+")),
            "rloo",
            steps=1,
            num_samples=2,
            learning_rate=1e-3,
        ),
        "dpg",
    ),
    "pass@k of a reward": (lambda: po.pass_at_k(target(), num_samples=8), "posteriori.Verifier"),
}


@pytest.mark.parametrize("act", MISTAKES)
def test_a_mistake_in_constraints_is_said(tmp_path, act):
    do, told = MISTAKES[act]
    in_one_line(lambda folder: do(), tmp_path, told)
