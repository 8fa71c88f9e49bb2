"""Calling a user's function the way TRL's trainers call reward functions, and checking its answer.

By keyword: `prompts`, `completions` (strings, or message lists where the prompt is a conversation),
`completion_ids` (lists of ints, end of sequence included, no padding), every data-set column, and
`trainer_state`, `log_extra`, `log_metric`. A function without `**kwargs` gets those it names.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import Columns
from posteriori.core.run.call_context import CallContext, current_calls
from posteriori.core.user_functions.given_evidence import lacking, missing_argument
from posteriori.core.user_functions.user_code import place_of_error
from posteriori.data.completion_text import own_text
from posteriori.data.given_numbers import in_short
from posteriori.errors import EvidenceCallError, EvidenceError

from .torch_settings import torch_as_it_was


def call_user_function(
    fn: Callable[..., Any], completions: Completions, columns: Columns, *, name: str
) -> list[Any]:
    """The function's list of answers, one per completion. Raises `EvidenceError` where it
    cannot."""
    return ask(fn, arguments_of(completions, columns), current_calls(), name=name)


def arguments_of(completions: Completions, columns: Columns) -> dict[str, Any]:
    """The arguments of a user's function: plain values, which another process can take.

    Lists, dicts, sets and arrays are copies: a function may change what it is given, and neither
    the target nor the next function sees it.
    """
    return {
        "prompts": [own(prompt) for prompt in completions.prompts],
        "completions": [
            text if isinstance(prompt, str) else messages_of(completions, row)
            for row, (prompt, text) in enumerate(
                zip(completions.prompts, completions.texts, strict=True)
            )
        ],
        "completion_ids": [list(ids) for ids in completions.completion_ids],
        **{name: [own(value) for value in values] for name, values in columns.items()},
    }


def messages_of(completions: Completions, row: int) -> list[dict[str, Any]]:
    """A completion of a conversation: the assistant's message, or its turns and the replies."""
    if completions.replies is None:
        return [{"role": "assistant", "content": completions.texts[row]}]
    messages: list[dict[str, Any]] = []
    for turn, reply in zip_longest(completions.turns[row], completions.replies[row]):
        if turn is not None:
            messages.append({"role": "assistant", "content": turn})
        if isinstance(reply, str):
            messages.append({"role": "user", "content": reply})
        elif reply and isinstance(reply[0], Mapping):
            messages += [own(message) for message in reply]
    return messages


def own(value: Any) -> Any:
    """A copy of what can be changed in place, all the way down; other objects as they are."""
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return {key: own(each) for key, each in value.items()}
    if isinstance(value, list):
        return [own(each) for each in value]
    if type(value) is tuple:
        return tuple(own(each) for each in value)
    if isinstance(value, set | bytearray | np.ndarray):
        return value.copy()
    return value.clone() if isinstance(value, Tensor) else value


def ask(
    fn: Callable[..., Any], arguments: dict[str, Any], context: CallContext, *, name: str
) -> list[Any]:
    """The function's answers to `arguments`, one per completion; it logs into `context`.

    Raises `EvidenceCallError` where the function raises, `EvidenceError` for no list of answers.
    """
    arguments_given = {
        **arguments,
        "trainer_state": context.trainer_state,
        "log_extra": context.log_extra,
        "log_metric": context.log_metric,
    }
    texts = list(arguments["completions"])
    try:
        with torch_as_it_was():
            answer = fn(**_accepted(fn, arguments_given, name))
            if inspect.isawaitable(answer):
                answer = _run(answer)
    except EvidenceError:
        raise
    except Exception as error:  # whatever a user's function raises becomes one typed error
        place = place_of_error(error, fn)
        asked = f"the call was for {len(texts)} completions, the first {own_text(texts[0])[:60]!r}"
        hint = _lacking_key(error, arguments_given) or asked
        raise EvidenceCallError(
            f"it raised {type(error).__name__}: {error}",
            where=name,
            hint=hint + (f"; see {place}" if place else ""),
        ) from error
    return _as_list(answer, len(texts), name)


def _lacking_key(error: Exception, given: Mapping[str, Any]) -> str:
    """What to write where a function looked up among its keywords what is no column."""
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    if not isinstance(key, str) or not key.isidentifier() or key in given:
        return ""
    return f"if '{key}' is a data-set column, give the prompts one of that name"


def numbers(answers: list[Any], completions: Completions, *, name: str, unit: str) -> Tensor:
    """The answers as float64 [N], NaN where an answer is None ("does not apply").

    Raises `EvidenceError` for anything that is not a finite number, and names the completion.
    """
    if all(type(answer) is float for answer in answers):
        plain_N = torch.tensor(answers, dtype=torch.float64)
        if not bool((plain_N.isnan() | plain_N.isposinf()).any()):
            return plain_N
    values = []
    for row, answer in enumerate(answers):
        if answer is None:
            values.append(math.nan)
            continue
        value = _as_float(answer)
        if value is None or math.isnan(value) or value == math.inf:
            shown = in_short(answer if value is None else value)
            raise EvidenceError(
                f"it returned {shown} for completion {row} ({completions.texts[row][:60]!r})",
                where=name,
                hint=f"return one finite {unit} a completion, or None where it does not apply",
            )
        values.append(value)
    return torch.tensor(values, dtype=torch.float64)


def function_name(fn: Any) -> str:
    return getattr(fn, "__name__", None) or type(fn).__name__


def _accepted(fn: Callable[..., Any], arguments: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return arguments
    missing = missing_argument(fn, arguments)
    if missing is not None:
        raise lacking(missing, arguments, name, fn)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return arguments
    wanted = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_POSITIONAL}
    return {key: value for key, value in arguments.items() if key in wanted}


def _as_list(answer: Any, expected: int, name: str) -> list[Any]:
    is_list = hasattr(answer, "__len__") and hasattr(answer, "__iter__")
    # Of a dict one would get the keys, and of a set some order.
    if (
        isinstance(answer, str | bytes | Mapping | Set)
        or not is_list
        or getattr(answer, "shape", None) == ()
    ):
        raise EvidenceError(
            f"it returned {type(answer).__name__} {str(answer)[:40]!r}",
            where=name,
            hint="return a list with one number per completion",
        )
    if len(answer) != expected:
        raise EvidenceError(
            f"it returned {len(answer)} values for {expected} completions",
            where=name,
            hint="return one value per completion, in their order",
        )
    return answer.tolist() if hasattr(answer, "tolist") else list(answer)


def _as_float(answer: Any) -> float | None:
    if isinstance(answer, str | bytes):
        return None
    try:
        return float(answer)
    except (TypeError, ValueError, OverflowError):
        return None


def _run(awaitable: Any) -> Any:
    """What an asynchronous function returns, also inside a running event loop (a notebook's)."""

    async def wait() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, wait()).result()
