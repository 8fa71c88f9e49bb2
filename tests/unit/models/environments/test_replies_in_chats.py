"""Replies as the chat template writes them, and the messages that rewards get."""

from __future__ import annotations

import pytest
import torch
from coin import DEPTH
from helpers import EOS, generator, tiny_lm, word_tokenizer

import posteriori as po
from posteriori.errors import OutcomeError
from posteriori.models.environments.reply_tokens import reply_ids

# Words a to e are all there is: a opens the user's turn, b the assistant's, <eos> ends one.
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ 'a ' + m['content'] + ' <eos> ' }}"
    "{% elif m['role'] == 'tool' %}{{ 'e ' + m['content'] + ' <eos> ' }}"
    "{% else %}{{ 'b ' + m['content'] + ' <eos> ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'b' }}{% endif %}"
)
CHAT = [{"role": "user", "content": "c"}]


@pytest.fixture(scope="module")
def lm() -> po.CausalLM:
    return tiny_lm("llama", tokenizer=word_tokenizer(chat_template=TEMPLATE))


def test_a_string_is_a_users_message(lm):
    """<eos> is the policy's own; then a d <eos> b."""
    assert reply_ids(lm, CHAT, "d") == [1, 4, EOS, 2]


def test_messages_have_their_roles(lm):
    said = [{"role": "tool", "content": "c"}, {"role": "user", "content": "d"}]
    assert reply_ids(lm, CHAT, said) == [5, 3, EOS, 1, 4, EOS, 2]


def test_behind_a_string_it_is_the_text(lm):
    assert reply_ids(lm, "a b", "c d") == [3, 4]


def test_messages_behind_a_string_are_refused(lm):
    with pytest.raises(OutcomeError, match="is a string"):
        reply_ids(lm, "a", [{"role": "user", "content": "d"}])


def test_rewards_get_both_sides(lm):
    seen = []

    def reward(completions, **_):
        seen.extend(completions)
        return [0.0] * len(completions)

    def once(episodes):
        return ["d" if len(each.turns) == 1 else None for each in episodes]

    played = po.InEnvironment(lm, once, max_turns=2, deterministic=True)
    target = po.Target(played, po.Reward(reward, beta=1.0), [CHAT], 3 * DEPTH)
    drawn = played.sample([CHAT], 200, 3 * DEPTH, generator(0))
    target.score(drawn)
    assert len(seen) == 200
    for messages, said, turns in zip(seen, drawn.replies, drawn.turns, strict=True):
        roles = [each["role"] for each in messages]
        assert roles == ["assistant", "user", "assistant"][: len(turns) + len(said)]
        assert [each["content"] for each in messages][::2] == turns
    assert any(len(turns) == 2 for turns in drawn.turns)
    scored = played.token_log_prob(drawn)
    assert torch.allclose(drawn.token_log_prob_NL, scored, atol=1e-5)
