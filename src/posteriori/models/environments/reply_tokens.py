"""A reply as the tokens that go between the end of one turn and the beginning of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posteriori.core.hooks import HasTokenizer
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel
from posteriori.data.conversation import with_text_contents
from posteriori.errors import ModelError, OutcomeError, PromptError

from .episode import Reply

_MARK = "reply-goes-here"
_BEGUN = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]


def reply_ids(lm: LanguageModel, prompt: Prompt, reply: Reply) -> list[int]:
    """Behind a string, the reply's own tokens; behind a conversation, what the chat template writes
    from the end of the assistant's turn to the beginning of its next one.

    The policy's tokens stay as they were drawn: a template that rewrites earlier turns (thinking
    that it leaves out, say) is asked about the new messages alone. Raises `OutcomeError` for ids
    that the model does not have, and for a reply without any token.
    """
    if not isinstance(reply, str) and all(isinstance(each, int) for each in reply):
        ids = [int(each) for each in reply if isinstance(each, int)]
    else:
        if not isinstance(lm, HasTokenizer):
            raise ModelError(
                f"{type(lm).__name__} has no tokenizer for the environment's reply",
                where="InEnvironment",
                hint="let the environment return token ids",
            )
        ids = _encoded(lm, prompt, reply)
    foreign = [each for each in ids if not 0 <= each < lm.vocab_size]
    if foreign or not ids:
        raise OutcomeError(
            f"the environment's reply {reply!r:.60} "
            + (f"has token id {foreign[0]}, which is none of the model's" if ids else "is empty"),
            where="InEnvironment",
            hint="return None to end the episode, or a reply of at least one token",
        )
    return ids


def _encoded(lm: HasTokenizer, prompt: Prompt, reply: Reply) -> list[int]:
    if isinstance(prompt, str):
        if not isinstance(reply, str):
            raise OutcomeError(
                f"the prompt {prompt[:40]!r} is a string, and the reply a list of messages",
                where="InEnvironment",
                hint="give both as strings, or both as messages",
            )
        return list(lm.tokenizer(reply, add_special_tokens=False)["input_ids"])
    messages = [{"role": "user", "content": reply}] if isinstance(reply, str) else list(reply)
    return _behind_a_turn(lm, [dict(each) for each in messages if isinstance(each, Mapping)])


def _behind_a_turn(lm: Any, messages: Sequence[dict[str, Any]]) -> list[int]:
    try:
        text = lm.tokenizer.apply_chat_template(
            with_text_contents([*_BEGUN, *messages]), add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template is a program that came with the model
        raise PromptError(
            f"the chat template refuses the environment's reply: {error}",
            where="InEnvironment",
            hint="return messages of roles that the template knows, or a string",
        ) from error
    _, found, rest = str(text).rpartition(_MARK)
    if not found:
        raise PromptError(
            "the chat template leaves out an assistant's turn that is not the last",
            where="InEnvironment",
            hint="set another tokenizer.chat_template",
        )
    ids = list(lm.tokenizer(rest, add_special_tokens=False)["input_ids"])
    # The end of the turn is the policy's own last token.
    return ids[1:] if ids and ids[0] in lm.eos_token_ids else ids
