"""Settings of evidence: how functions are called, and what needs no function of one's own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from posteriori.core.settings.strict import Strict


class WordsSettings(Strict):
    """See `posteriori.constraints.words`."""

    any_of: list[str] = Field(default_factory=list)
    none_of: list[str] = Field(default_factory=list)
    all_of: list[str] = Field(default_factory=list)
    case_sensitive: bool = False


class LengthSettings(Strict):
    """See `posteriori.constraints.length`."""

    min_tokens: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0)
    min_words: int | None = Field(None, ge=0)
    max_words: int | None = Field(None, ge=0)


class ReadyMadeSettings(Strict):
    """Evidence that needs no function of one's own; see docs/ready-made.md. Which key goes with
    which kind and with which other keys is for `ready_made` to say."""

    regex: str | None = None
    match: Literal["full", "search"] | None = None
    words: WordsSettings | None = None
    length: LengthSettings | None = None
    json_schema: str | bool | dict[str, Any] | None = None
    classifier: str | None = None
    sklearn: str | None = None
    label: str | int | None = None
    word_probability: dict[str, float] | None = None
    observed: Literal["none", "some"] | None = None
    similarity: str | list[str] | None = None
    threshold: float | None = None
    temperature: float | None = Field(None, gt=0)
    read: Literal["both", "completion"] | None = None
    question: str | None = None
    yes: str | list[str] | None = None
    no: str | list[str] | None = None
    template: str | None = None
    url: str | None = None
    server: dict[str, Any] | None = None
    functions: list[str] | None = None
    weights: list[float] | None = None
