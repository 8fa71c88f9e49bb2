"""`TabularLM` and enumeration: every number can be worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import WORDS, generator, outcome_ids

import posteriori as po
from posteriori.diagnostics.exact.exact import count_outcomes
from posteriori.errors import ModelError, OutcomeError


def by_hand(table: po.TabularLM, prompt: str, ids: list[int]) -> float:
    """Walk down the tree, with prefixes numbered by listing them breadth-first."""
    going_on = [t for t in range(table.vocab_size) if t != table.eos_token_id]
    prefixes = [
        list(prefix)
        for depth in range(table.max_new_tokens)
        for prefix in itertools.product(going_on, repeat=depth)
    ]
    rows = table.logits[table.prompts.index(prompt)].log_softmax(-1)
    return sum(float(rows[prefixes.index(ids[:t]), ids[t]]) for t in range(len(ids)))


@pytest.mark.parametrize("eos", [0, 2, 3])
def test_log_probs_are_those_of_the_walk_down_the_tree(eos):
    logits = torch.randn(2, 1 + 3 + 9, 4, generator=generator(), dtype=torch.float64)
    table = po.TabularLM(logits, ["x", "y"], ["p", "q", "r", "s"], eos_token_id=eos)
    ids = outcome_ids(4, 3, eos=(eos,))
    prompts = ["x"] * len(ids) + ["y"] * len(ids)
    log_prob = table.log_prob(table.completions(prompts, ids * 2, 3))
    expected = [by_hand(table, p, y) for p, y in zip(prompts, ids * 2, strict=True)]
    assert log_prob.tolist() == pytest.approx(expected, abs=1e-12)
    for half in log_prob.view(2, -1):
        assert float(half.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_a_shorter_space_is_a_space_too(table):
    for depth in (1, 2, 3):
        ids = outcome_ids(4, depth)
        total = table.log_prob(table.completions(["x"], ids, depth)).exp().sum()
        assert float(total) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(OutcomeError, match="the table ends at 3 tokens"):
        table.sample(["x"], 2, 4)


def test_draws_come_with_their_log_probs(table):
    drawn = table.sample(["y", "x"], 100, 3, generator())
    drawn.check_outcomes(3)
    assert torch.equal(drawn.log_prob_N, table.log_prob(drawn))
    assert drawn.texts[0] == " ".join(WORDS[i] for i in drawn.completion_ids[0] if i)


@pytest.mark.parametrize("shape", [(2, 12, 4), (1, 13, 4), (2, 13, 5)])
def test_a_table_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ModelError):
        po.TabularLM(torch.zeros(shape), ["x", "y"], WORDS[:4])


def test_a_table_is_saved_and_loaded(table, tmp_path):
    table.save_pretrained(tmp_path / "table")
    again = po.TabularLM.from_pretrained(tmp_path / "table")
    assert torch.equal(again.logits, table.logits)
    assert (again.prompts, again.vocabulary) == (table.prompts, table.vocabulary)


def test_a_table_with_one_word_left(table):
    """-inf logits forbid: the outcomes that are left still sum to one."""
    with torch.no_grad():
        table.logits[:, :, 1:3] = -math.inf
    exact = po.exact(po.Target(table, [], ["x"], 3))
    possible = exact.outcomes[0].select(exact.log_prior[0] > -math.inf)
    assert sorted(possible.completion_ids) == [[0], [3, 0], [3, 3, 0], [3, 3, 3]]
    assert exact.evaluate(table)["entropy"][0] > 0


@pytest.mark.parametrize(("vocab", "eos", "depth"), [(4, 1, 3), (6, 2, 3), (2, 1, 5), (5, 4, 2)])
def test_outcomes_are_counted_as_they_are_listed(vocab, eos, depth):
    listed = outcome_ids(vocab, depth, eos=tuple(range(eos)))
    assert count_outcomes(vocab, eos, depth) == len(listed)


def test_a_distribution_that_does_not_sum_to_one_is_refused(table):
    class Leaky(po.TabularLM):
        def log_prob(self, completions):
            return super().log_prob(completions) - 0.1

    leaky = Leaky(table.logits, table.prompts, table.vocabulary)
    with pytest.raises(ModelError, match=r"sum to 0\.904837, not 1"):
        po.exact(po.Target(leaky, [], ["x"], 3))
    with pytest.raises(ModelError, match=r"sum to 0\.904837"):
        po.exact(po.Target(table, [], ["x"], 3)).evaluate(leaky)
