"""Tools: which calls are found, what they answer, objects that keep a state."""

from __future__ import annotations

import itertools
import json

import pytest

import posteriori as po
from posteriori.errors import ConfigError, EnvironmentCallError

CHAT = [{"role": "user", "content": "go"}]


def add(a: int, b: int) -> int:
    return a + b


def call(name: str, **arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def reply_to(tools: po.Tools, *turns: str, replies=(), prompt=CHAT):
    return tools([po.Episode(prompt, turns, tuple(replies), seed=0)])[0]


def contents(reply) -> list[str]:
    return [message["content"] for message in reply]


def test_calls_are_answered_in_their_order():
    turn = f"Let me see. {call('add', a=1, b=2)} and {call('add', a=5, b=5)}"
    reply = reply_to(po.Tools([add]), turn)
    assert contents(reply) == ["3", "10"]
    assert {message["role"] for message in reply} == {"tool"}


def test_a_turn_without_a_call_ends_the_episode():
    assert reply_to(po.Tools([add]), "It is 3.") is None


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        (call("sub", a=1), "there is no tool 'sub'; there are add"),
        (call("add", a=1), "TypeError"),
        ("<tool_call>{add}</tool_call>", "no JSON"),
        ("<tool_call>[1]</tool_call>", "a call is"),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "no object"),
    ],
)
def test_what_goes_wrong_is_said_to_the_model(turn, why):
    assert why in contents(reply_to(po.Tools([add]), turn))[0]


def test_behind_a_string_the_reply_is_text():
    assert "\n3\n" in reply_to(po.Tools([add]), call("add", a=1, b=2), prompt="1 + 2?")


class Counter:
    """Counts up; begins with the length of the prompt."""

    def reset(self, prompt):
        self.value = len(prompt)

    def up(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def _hidden(self):
        raise AssertionError


def test_an_object_has_seen_the_earlier_turns():
    tools = po.Tools(environment_factory=Counter)
    first = reply_to(tools, call("up", by=2))
    assert contents(first) == ["3"]
    second = reply_to(tools, call("up", by=2), call("up"), replies=[first])
    assert contents(second) == ["4"]
    assert "no tool '_hidden'" in contents(reply_to(tools, call("_hidden")))[0]


def test_an_object_that_answers_otherwise_is_found_out():
    numbers = itertools.count()

    class Moody:
        def ask(self):
            return next(numbers)

    tools = po.Tools(environment_factory=Moody)
    first = reply_to(tools, call("ask"))
    with pytest.raises(EnvironmentCallError, match="played again"):
        reply_to(tools, call("ask"), call("ask"), replies=[first])


def test_no_tools_and_two_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="no tools"):
        po.Tools()
    with pytest.raises(ConfigError, match="two tools are named 'add'"):
        po.Tools([add, add])
