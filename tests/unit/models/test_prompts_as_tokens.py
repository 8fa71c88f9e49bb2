"""Prompts: what is taken, what becomes of it, and what is refused in one line."""

# ruff: noqa: RUF001 - texts in Chinese

from __future__ import annotations

import numpy as np
import pytest
from helpers import WORDS, generator, tiny_lm, word_tokenizer
from tokenizers import processors

import posteriori as po
from posteriori.data.preferences import read_preferences
from posteriori.errors import ConfigError, EvidenceError, ModelError, PromptError

CHAT = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


def test_an_end_of_sequence_that_the_tokenizer_appends_is_left_out():
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 0)]
    )
    lm = tiny_lm("llama", tokenizer=tokenizer)
    assert lm.encode("a b") == (1, 2)
    assert tiny_lm("llama").encode("a b <eos>") == (1, 2, 0), "the user's own stays"


def test_a_token_without_a_row_is_refused():
    lm = tiny_lm("llama", tokenizer=word_tokenizer(words=(*WORDS, "x")))
    with pytest.raises(ModelError, match=r"token 6 \('x'\), and the model has rows for 6"):
        lm.sample(["a x"], 2, 3, generator())


def test_an_end_of_sequence_without_a_row_is_refused():
    model = tiny_lm("llama").model
    model.generation_config.eos_token_id = 10**6
    with pytest.raises(ModelError, match="the end-of-sequence ids are"):
        po.CausalLM(model, word_tokenizer())


def test_a_template_that_refuses_is_one_line():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(PromptError, match="the chat template refuses it: System role"):
        tiny_lm("llama", tokenizer=tokenizer).sample([CHAT], 1, 3, generator())


def test_contents_in_parts_are_read_as_their_text():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
    lm = tiny_lm("llama", tokenizer=tokenizer)
    parts = [{"role": "user", "content": [{"type": "text", "text": "a "}, {"text": "b"}]}]
    assert lm.encode(parts) == (1, 2)


@pytest.mark.parametrize("prompts", [np.array(["a b", "c"]), ("a b", "c"), iter(["a b", "c"])])
def test_prompts_of_arrays_and_columns_are_taken(prompts):
    lm = tiny_lm("llama")
    target = po.Target(lm, po.Reward(length, beta=1.0), prompts, 3)
    assert target.prompts == ("a b", "c")
    assert all(type(prompt) is str for prompt in target.prompts)


@pytest.mark.parametrize("odd", [None, 3.5, {"role": "user"}, [], ["a"], b"a"])
def test_what_is_no_prompt_is_refused(odd):
    with pytest.raises(ConfigError, match=r"prompts\[1\] is"):
        po.Target(tiny_lm("llama"), po.Reward(length, beta=1.0), ["a", odd], 3)


def test_rewards_get_copies():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
    lm, tags = tiny_lm("llama", tokenizer=tokenizer), [["x"]]

    def spoils(prompts, completions, completion_ids, tags, **kwargs):
        for prompt, said, ids, tag in zip(prompts, completions, completion_ids, tags, strict=True):
            prompt[0]["content"] = "c"
            prompt += said
            ids.clear()
            tag.append("y")
        prompts.clear()
        return [0.0] * len(completions)

    evidence = [po.Reward(spoils, beta=1.0), po.Reward(length, beta=1.0)]
    target = po.Target(lm, evidence, [[dict(CHAT[1])]], 3, columns={"tags": tags})
    drawn = lm.sample(target.prompts, 4, 3, generator())
    assert target.score(drawn).reward.tolist() == drawn.lengths_N.tolist()
    assert target.prompts == ([CHAT[1]],)
    assert tags == [["x"]]


@pytest.mark.parametrize("answer", [dict, set, frozenset, bytes])
def test_an_answer_without_an_order_is_refused(answer):
    def reward(completions, **kwargs):
        numbers = range(len(completions))
        return answer((n, n) for n in numbers) if answer is dict else answer(numbers)

    lm = tiny_lm("llama")
    target = po.Target(lm, po.Reward(reward, beta=1.0), ["a"], 3)
    with pytest.raises(EvidenceError, match=f"it returned {answer.__name__}"):
        target.score(lm.sample(["a"], 3, 3, generator()))


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        (
            "问题：今天怎么样？回答：很好",
            "问题：今天怎么样？回答：不好",
            "问题：今天怎么样？回答：",
        ),
        ("Q:yes", "Q:no", "Q:"),
        ("2+2=4", "2+2=5", "2+2="),
        ("Q:\nyes", "Q:\nno", "Q:\n"),
        ("The cat sat", "The cat sits", "The cat"),
        ("A: yes", "A: yes indeed", "A:"),
        ("I don't", "I don'k", "I"),
        ("สวัสดีครับ", "สวัสดีค่ะ", "สวัสดีค"),
    ],
)
def test_an_implicit_prompt_ends_where_a_word_does(chosen, rejected, prompt):
    (pair,) = read_preferences([{"chosen": chosen, "rejected": rejected}])
    assert pair.prompt == prompt
    assert (prompt + str(pair.chosen), prompt + str(pair.rejected)) == (chosen, rejected)
