"""What a classifier of plain text reads of a completion."""

from __future__ import annotations

from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.data.completion_text import own_text


def plain_texts(prompts: list[Prompt], completions: list[Any], read: str) -> list[str]:
    """Each completion, after its prompt where `read` is "both"; of a conversation, the contents of
    its messages, a line each."""
    if read == "completion":
        return [own_text(each) for each in completions]
    return [_joined(*each) for each in zip(prompts, completions, strict=True)]


def _joined(prompt: Prompt, completion: Any) -> str:
    if isinstance(prompt, str):
        return prompt + completion
    return "\n".join(message["content"] for message in prompt + completion)
