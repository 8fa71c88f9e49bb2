"""Prompts in a config: a file's name, a list, rows, or a table that says which part of a source."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema

from posteriori.core.settings.strict import Strict
from posteriori.data.is_prompt import is_prompt
from posteriori.data.plain_values import is_dict, is_list


class PromptSettings(Strict):
    """Where prompts are read from, and which; see `posteriori.prompts`.

    Args:
        path: a file (.jsonl, .json, .csv, .tsv, .parquet, .txt), a saved data set, or one of the
            hub.
        split: the split of a data set.
        prompt_column: the column that is the prompt; left out, it is found.
        max_prompts: so many of them, chosen at random; left out, all.
        seed: of that choice.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [prompts]
        path = "prompts.jsonl"
        max_prompts = 100
    """

    path: str
    split: str | None = None
    prompt_column: str | None = None
    max_prompts: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)


def _prompts(value: Any) -> Any:
    if is_dict(value):
        return _settings(value)
    if is_list(value) and value and all(map(_is_row, value)):
        return value
    if isinstance(value, str) or (is_list(value) and value and all(map(is_prompt, value))):
        return value
    raise ValueError(
        "write a file name (.jsonl, .csv, .parquet, ..) or a list of strings, such as "
        '["The food here is"]'
    )


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and not {"role", "content"} <= value.keys()


def _settings(value: dict[str, Any]) -> dict[str, Any]:
    """Only what is given: a run records it as it was written."""
    try:
        PromptSettings.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = ", ".join(PromptSettings.model_fields)
        raise ValueError(f"'{name}': {first['msg'].lower()}; its keys are {known}") from error
    return value


_MESSAGES = {"type": "array", "items": {"type": "object"}, "minItems": 1}
_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": [{"type": ["string", "object"]}, _MESSAGES]}},
        PromptSettings.model_json_schema(),
    ]
}

Prompts = Annotated[Any, BeforeValidator(_prompts), WithJsonSchema(_SCHEMA)]
