"""Conversations, by the prior's chat template."""

from __future__ import annotations

import json

import pytest
from helpers import tiny_lm
from served import likes_b, post, serving

import posteriori as po

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
ASKED = [{"role": "system", "content": "a"}, {"role": "user", "content": "b c"}]
PATH = "/v1/chat/completions"


@pytest.fixture
def chatting():
    lm = tiny_lm("gpt2")
    lm.tokenizer.chat_template = TEMPLATE
    target = po.Target(lm, po.Reward(likes_b, beta=0.7, max_reward=4.0), ["a"], 4)
    with serving(target) as served:
        yield served


def test_a_conversation_is_read_by_the_template(chatting):
    body = {"model": "small", "n": 3, "seed": 1, "logprobs": True}
    answer = post(chatting, {**body, "messages": ASKED}, PATH).json()
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens"] == 3
    # The template makes of it what this prompt is: the same tokens, and the same draws.
    plain = post(chatting, {"model": "small", "prompt": "a b c", "n": 3, "seed": 1}).json()
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == [choice["text"] for choice in plain["choices"]]
    for choice in answer["choices"]:
        assert choice["message"]["role"] == "assistant"
        tokens = [each["token"] for each in choice["logprobs"]["content"]]
        assert "".join(tokens) == choice["message"]["content"]
    assert answer["posteriori"]["guarantee"] == "exact"
    parts = [{"role": "user", "content": [{"type": "text", "text": "a b c"}]}]
    again = post(chatting, {**body, "messages": parts}, PATH).json()
    assert [choice["message"]["content"] for choice in again["choices"]] == texts


def test_a_conversation_is_streamed(chatting):
    body = {"model": "small", "messages": ASKED, "seed": 4, "max_completion_tokens": 3}
    whole = post(chatting, body, PATH).json()["choices"][0]
    events = post(chatting, {**body, "stream": True}, PATH).text.split("\n\n")
    found = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    deltas = [event["choices"][0]["delta"] for event in found]
    assert deltas[0]["role"] == "assistant"
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == whole["message"]["content"]
    assert found[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert found[-1]["posteriori"]["max_new_tokens"] == 3


def test_without_a_template_it_is_refused():
    target = po.Target(tiny_lm("gpt2"), po.Reward(likes_b, beta=0.7, max_reward=4.0), ["a"], 4)
    with serving(target) as served:
        refused = post(served, {"model": "small", "messages": ASKED}, PATH)
    assert refused.status_code == 400
    assert "chat template" in refused.json()["error"]["message"]


def test_a_prompt_beyond_the_context_is_refused(chatting):
    refused = post(chatting, {"model": "small", "prompt": "a " * 5000})
    assert refused.status_code == 400
    assert "context" in refused.json()["error"]["message"]
