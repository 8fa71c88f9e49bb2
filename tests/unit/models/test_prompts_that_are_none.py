"""What is no prompt is refused in a sentence by every method that takes prompts."""

from __future__ import annotations

import pytest
from helpers import WORDS

import posteriori as po
from posteriori.errors import PromptError

TABLE = po.TabularLM.random(list(WORDS), 3, ["a", "b"], seed=0)
NO_PROMPTS = ([1, 2], 3, None, {"role": "user", "content": "a"}, b"a", ["a", "b"], 1.5)


@pytest.fixture(scope="module")
def tiny() -> po.CausalLM:
    return po.load("tiny")


@pytest.mark.parametrize("prompt", NO_PROMPTS, ids=str)
def test_it_is_refused_with_its_type(tiny, prompt):
    for call in (
        lambda: tiny.encode(prompt),
        lambda: tiny.sample([prompt], 1, 2),
        lambda: tiny.completions(prompts=[prompt], completion_ids=[[5]]),
        lambda: tiny.generate(["a", prompt], max_new_tokens=2),
    ):
        with pytest.raises(PromptError, match=type(prompt).__name__):
            call()


def test_one_string_is_no_list_of_prompts(tiny):
    """Its characters would be prompts, and nobody would see it."""
    for lm in (tiny, TABLE):
        with pytest.raises(PromptError, match="give a list of prompts"):
            lm.sample("ab", 2, 3)
        with pytest.raises(PromptError, match="give a list of prompts"):
            lm.completions(prompts="ab", completion_ids=[[1], [2]])


@pytest.mark.parametrize("number", [0, -1, 1.5, "2"])
def test_less_than_one_draw_is_refused(tiny, number):
    for lm in (tiny, TABLE):
        with pytest.raises(PromptError, match="at least 1"):
            lm.sample(["a"], number, 2)
