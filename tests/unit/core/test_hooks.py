"""Hooks: what has one takes part without a base class, and no hook is found behind a protocol."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import posteriori as po
from posteriori.core import hooks
from posteriori.core.protocols import Scores
from posteriori.models.tabular import TabularLM

SOURCE = Path(po.__file__).parent
PROTOCOLS = [
    each
    for each in vars(hooks).values()
    if getattr(each, "_is_protocol", False) and each.__module__ == hooks.__name__
]
NAMES = {
    name
    for each in PROTOCOLS
    for name in {*vars(each), *vars(each).get("__annotations__", {})}
    if not name.startswith("_")
}
FOREIGN = {
    ("trl.py", "tokenizer"),  # a processor of transformers may have its tokenizer inside
    ("models/weights/state.py", "weight"),  # of a layer
}
"""Attributes of other packages' objects that have the name of a hook."""


class Everything:
    """Evidence that is no class of the library's, with every hook a target asks for."""

    name = "length, weighed"
    is_reward = True
    max_log_evidence = 0.0
    findings = (po.Finding("info", "short", "It is short.", "Nothing."),)

    def __init__(self, beta: float = 1.0) -> None:
        self.beta: float | None = beta
        self.functions = [("length function", needs_answer)]

    def with_beta(self, beta: float) -> Everything:
        return Everything(beta)

    def in_float64(self) -> Everything:
        return self

    def score(self, completions, columns) -> Scores:
        length_N = completions.lengths_N.double()
        return Scores(-length_N / (self.beta or 1.0), -length_N)


class Plain:
    def score(self, completions, columns) -> Scores:
        zero_N = torch.zeros(len(completions), dtype=torch.float64)
        return Scores(zero_N, zero_N)


def needs_answer(answer, **_):
    return answer


def target_of(*evidence, **settings) -> po.Target:
    lm = TabularLM.random(["<eos>", "x"], prompts=["p"], seed=0, max_new_tokens=2)
    return po.Target(lm, evidence, ["p"], 2, **settings)


def test_what_has_a_hook_takes_part():
    target = target_of(Everything(), columns={"answer": ["1"]})
    assert "length, weighed" in repr(target)
    assert target.max_log_evidence == 0.0
    assert [each.name for each in target.findings] == ["short"]
    assert target.with_beta(0.5).evidence[0].beta == 0.5
    drawn = target.prior.sample(["p"], 4, 2, torch.Generator().manual_seed(0))
    assert torch.equal(target.score(drawn).reward, -drawn.lengths_N.double())
    assert target.in_float64().evidence[0] is target.evidence[0]


def test_a_function_that_lacks_a_column_is_refused_when_the_target_is_made():
    with pytest.raises(po.PosterioriError, match="length function: it needs an argument 'answer'"):
        target_of(Everything())


def test_what_has_none_is_evidence_all_the_same():
    target = target_of(Plain())
    assert target.max_log_evidence is None
    assert target.findings == ()
    assert "Plain" in repr(target)
    with pytest.raises(po.PosterioriError, match="0 pieces of the evidence have a beta"):
        target.with_beta(1.0)


def test_a_reward_beside_it_is_the_only_one_reported():
    both = target_of(Everything(), Plain(), columns={"answer": ["1"]})
    drawn = both.prior.sample(["p"], 4, 2, torch.Generator().manual_seed(0))
    assert torch.equal(both.score(drawn).reward, -drawn.lengths_N.double())
    assert both.max_log_evidence is None


def test_no_hook_is_found_by_getattr_or_hasattr():
    """A hook that is asked for by its name stands in no protocol."""
    assert {"with_beta", "is_reward", "findings", "callers", "tokenizer"} <= NAMES
    found = set()
    for file in SOURCE.rglob("*.py"):
        where = file.relative_to(SOURCE).as_posix()
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id in ("getattr", "hasattr") and isinstance(call.args[1], ast.Constant):
                found.add((where, call.args[1].value))
    assert {(where, name) for where, name in found if name in NAMES} == FOREIGN
