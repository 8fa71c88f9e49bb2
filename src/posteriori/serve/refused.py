"""A body becomes a request, or is refused in one sentence that names the parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from posteriori.errors import did_you_mean

from .parameters import ChatAsked, CompletionsAsked
from .refusal import Refusal, bad_request

AskedT = TypeVar("AskedT", bound=BaseModel)

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (None, 1.0),
    "top_p": (None, 1.0),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "logit_bias": (None, {}),
}
"""What may be said of a parameter that would make another distribution of the posterior."""

_KNOWN_AND_REFUSED = {
    "tools": "tools are not called",
    "tool_choice": "tools are not called",
    "parallel_tool_calls": "tools are not called",
    "functions": "functions are not called",
    "function_call": "functions are not called",
    "audio": "it writes text",
    "modalities": "it writes text",
    "prediction": "draws are not made from a prediction",
    "reasoning_effort": "it has no such setting",
    "web_search_options": "nothing is searched",
    "guided_regex": "write it as evidence of the run file instead",
    "guided_json": "write it as evidence of the run file instead",
    "top_k": "it would make another distribution of the posterior",
    "min_p": "it would make another distribution of the posterior",
    "repetition_penalty": "it would make another distribution of the posterior",
}


def read_body(body: bytes) -> Mapping[str, Any]:
    """The JSON object that a body is."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise bad_request("the body is not UTF-8; send a JSON object in UTF-8") from None
    except RecursionError:
        raise bad_request("the body is nested too deeply; send a flat JSON object") from None
    except ValueError as error:
        raise bad_request(f"the body is no JSON: {error}"[:300]) from None
    if not isinstance(found, dict):
        raise bad_request("the body has to be a JSON object, with model and the other parameters")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def parsed(model: type[AskedT], table: Mapping[str, Any]) -> AskedT:
    """The table as a request. Raises `Refusal` about the first parameter that is wrong."""
    try:
        return model.model_validate(table)
    except RecursionError:
        raise bad_request("the body is nested too deeply; send a flat JSON object") from None
    except ValidationError as error:
        raise _told(model, error) from None


def check_kept(asked: CompletionsAsked | ChatAsked, most_choices: int, most_prompts: int) -> None:
    """Raise `Refusal` for a parameter whose value is not kept, by its name."""
    for name, neutral in _NEUTRAL.items():
        value = getattr(asked, name)
        if value not in neutral:
            raise _unsupported(
                name,
                f"{name}={value} would make another distribution of the posterior; leave it out"
                f" or send {json.dumps(neutral[1])}",
            )
    if (asked.n or 1) > most_choices:
        raise bad_request(f"n={asked.n} is above {most_choices}, the most that are served", "n")
    if len(asked.prompts) > most_prompts:
        raise bad_request(
            f"{len(asked.prompts)} prompts are above {most_prompts}, the most in one request",
            "prompt",
        )
    if asked.stream_options is not None and not asked.stream:
        raise bad_request("stream_options goes with stream=true", "stream_options")
    if isinstance(asked, CompletionsAsked):
        _check_completions(asked)
    else:
        _check_chat(asked)


def _check_completions(asked: CompletionsAsked) -> None:
    if asked.logprobs:
        raise _unsupported(
            "logprobs",
            f"logprobs={asked.logprobs} asks for alternatives of each token, which are not kept; "
            "logprobs=0 gives those of the text's own tokens, under the prior",
        )
    if asked.echo:
        raise _unsupported("echo", "echo is not supported; put the prompt before the text")
    if asked.best_of not in (None, asked.n or 1):
        raise _unsupported(
            "best_of",
            f"best_of={asked.best_of} is another sampler; serve --sampler best_of_n, or ask for n",
        )
    if asked.suffix:
        raise _unsupported("suffix", "suffix is not supported; leave it out")


def _check_chat(asked: ChatAsked) -> None:
    if asked.top_logprobs:
        raise _unsupported(
            "top_logprobs",
            f"top_logprobs={asked.top_logprobs} asks for alternatives of each token, which are not "
            "kept; logprobs=true gives those of the text's own tokens, under the prior",
        )
    if asked.response_format not in (None, {"type": "text"}):
        raise _unsupported(
            "response_format",
            "response_format is not supported; write a constraint json_schema into the run file",
        )
    if None not in (asked.max_tokens, asked.max_completion_tokens) and (
        asked.max_tokens != asked.max_completion_tokens
    ):
        raise bad_request(
            "max_tokens and max_completion_tokens differ; send one of them", "max_tokens"
        )


def _unsupported(name: str, message: str) -> Refusal:
    return bad_request(message, name, "unsupported_parameter")


def _told(model: type[BaseModel], error: ValidationError) -> Refusal:
    first = error.errors(include_url=False)[0]
    path = [part for at, part in enumerate(first["loc"]) if not (at and _names_a_type(part))]
    name = str(path[0]) if path else None
    if first["type"] == "extra_forbidden" and len(path) == 1 and name is not None:
        shown = name[:60]
        why = _KNOWN_AND_REFUSED.get(name)
        if why is None:
            why = did_you_mean(shown, model.model_fields)
            return bad_request(f"unknown parameter {shown!r}; {why}", shown, "unknown_parameter")
        return _unsupported(shown, f"{shown} is not supported: {why}")
    place = ".".join(map(str, path))[:100]
    if first["type"] == "missing":
        return bad_request(f"{place} is missing", name, "missing_parameter")
    given = repr(first.get("input"))
    shown = given if len(given) <= 60 else f"{given[:57]}..."
    words = first["msg"].removeprefix("Value error, ")
    return bad_request(f"{place}={_plain(shown)}: {words[0].lower()}{words[1:]}", name)


def _names_a_type(part: Any) -> bool:
    """pydantic puts the alternatives of a union into the place of an error."""
    return isinstance(part, str) and (
        part in ("str", "int", "bool", "float") or "[" in part or part == "TextPart"
    )


def _plain(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
