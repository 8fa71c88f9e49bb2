"""The parameters of OpenAI's requests: which are kept, and which are refused by name.

A parameter that would change the distribution (temperature, top_p, penalties) is refused unless it
has the value that changes nothing: what is served is a posterior, and its answers say which.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from posteriori.core.occurrence import Message, Prompt

_INT64 = 2**63


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it is no text: half of a surrogate pair") from None
    return value


Text = Annotated[str, AfterValidator(_text)]
Stop = Annotated[Text, Field(min_length=1, max_length=200)]


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    name: Text | None = None

    def message(self) -> Message:
        content = self.content
        joined = content if isinstance(content, str) else "".join(part.text for part in content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": joined, **named}


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of requests have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Text
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    columns: dict[str, Any] | None = None
    """Not OpenAI's: the prompt's data-set columns, which evidence may need."""

    # Accepted at the one value that changes nothing (`refused.py`).
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionsAsked(Asked):
    """The body of /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: Text | None = None

    @property
    def prompts(self) -> list[Prompt]:
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def length(self) -> int | None:
        return self.max_tokens

    @property
    def wants_log_probs(self) -> bool:
        return self.logprobs is not None


class ChatAsked(Asked):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    response_format: dict[str, Any] | None = None

    @property
    def prompts(self) -> list[Prompt]:
        return [[each.message() for each in self.messages]]

    @property
    def length(self) -> int | None:
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    @property
    def wants_log_probs(self) -> bool:
        return bool(self.logprobs)
