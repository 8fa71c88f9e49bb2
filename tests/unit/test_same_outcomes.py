"""Wherever two language models meet, they are over the same outcomes or are refused."""

from __future__ import annotations

import pytest
from helpers import PROMPTS, WORDS, tiny_model, word_tokenizer
from tokenizers import processors

import posteriori as po
from posteriori.draw import draw
from posteriori.errors import ModelError

CHAT = [{"role": "user", "content": "a b"}]


def lm(words=WORDS, rows=None, eos=0, template=None, bos=False):
    model = tiny_model("llama").requires_grad_(False)
    if rows is not None:
        model.set_input_embeddings(type(model.get_input_embeddings())(rows, 16))
    model.generation_config.eos_token_id = eos
    tokenizer = word_tokenizer(words=words)
    tokenizer.chat_template = template
    if bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="e $A", special_tokens=[("e", 5)]
        )
    return po.CausalLM(model, tokenizer)


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


OTHERS = {
    "tokens": (lambda: lm(("<eos>", "v", "w", "x", "y", "z")), "token 'a' is 1"),
    "order": (lambda: lm(("<eos>", "b", "a", "c", "d", "e")), "token 'a' is 1"),
    "rows": (lambda: lm(rows=8), "rows for 6 and for 8 tokens"),
    "ends": (lambda: lm(eos=[0, 3]), r"end-of-sequence ids \[0\] and \[0, 3\]"),
    "bos": (lambda: lm(bos=True), r"prompt 'a b' is \[1, 2\] for one and \[5, 1, 2\]"),
}
MEETINGS = {
    "evaluate": lambda target, other: po.evaluate(target, other, 4),
    "importance": lambda target, other: po.sample(target, "importance", 4, proposal=other),
    "smc": lambda target, other: po.sample(target, "smc", 4, proposal=other),
    "imh": lambda target, other: po.sample(target, "imh", 4, proposal=other),
    "exact": lambda target, other: po.exact(target).evaluate(other),
    "draw": lambda target, other: draw(target, other, 4),
}


@pytest.mark.moves_rng
@pytest.mark.parametrize("meeting", MEETINGS)
@pytest.mark.parametrize("kind", OTHERS)
def test_another_models_outcomes_are_refused(meeting, kind):
    make, message = OTHERS[kind]
    target = po.Target(lm(), po.Reward(length, beta=1.0), ["a b"], 2)
    with pytest.raises(ModelError, match=message):
        MEETINGS[meeting](target, make())


@pytest.mark.parametrize("meeting", MEETINGS)
def test_another_chat_template_is_refused(meeting):
    one = lm(template="{% for m in messages %}{{ m.content }} {% endfor %}")
    other = lm(template="{% for m in messages %}{{ m.content }} c {% endfor %}")
    target = po.Target(one, po.Reward(length, beta=1.0), [CHAT], 2)
    with pytest.raises(ModelError, match="share their outcomes: the prompt"):
        MEETINGS[meeting](target, other)


def test_the_same_words_in_another_tokenizer_are_the_same_outcomes():
    target = po.Target(lm(), po.Reward(length, beta=1.0), list(PROMPTS), 2)
    po.evaluate(target, lm(), 4)


def test_a_prefix_of_its_own_is_no_difference():
    bare = lm()
    target = po.Target(po.Prompted(bare, "a "), po.Reward(length, beta=1.0), ["b"], 2)
    po.evaluate(target, bare, 4)
