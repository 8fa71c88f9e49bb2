"""What public functions are called with: a wrong keyword, a missing argument and a target that is
none end in one line that says what to write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from posteriori.errors import ArgumentError, ConfigError, did_you_mean

from .trl_names import name_here

CallableT = TypeVar("CallableT", bound=Callable[..., Any])

_KEYWORDS = inspect.Parameter.VAR_KEYWORD
_TARGET = "target = posteriori.Target(prior, evidence, prompts, max_new_tokens)"


def named_arguments(function: CallableT) -> CallableT:
    """A public function, or the `__init__` of a class.

    Raises `ArgumentError`, a `ConfigError` and a `TypeError` as Python's own would be, for
    arguments that do not fit its signature, and `ConfigError` for a `target` that is none.
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        try:
            given = signature.bind(*arguments, **settings).arguments
        except TypeError:
            raise _misfit(name, signature.parameters, arguments, settings) from None
        if "target" in given:
            _check_target(name, given["target"])
        return function(*arguments, **settings)

    return call  # pyright: ignore[reportReturnType]


def _misfit(
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    arguments: tuple[Any, ...],
    settings: Mapping[str, Any],
) -> ArgumentError:
    known = [each for each, p in parameters.items() if each != "self" and _is_named(p)]
    takes_any = any(p.kind is _KEYWORDS for p in parameters.values())
    unknown = [each for each in settings if each not in known and not takes_any]
    if unknown:
        hint = name_here(unknown[0]) or did_you_mean(unknown[0], known)
        return ArgumentError(f"unknown argument '{unknown[0]}'", where=name, hint=hint)
    places = [each for each in known if parameters[each].kind is not _NAMED_ONLY]
    first = [each for each in parameters if each == "self"]
    if len(arguments) > len(places) + len(first):
        return ArgumentError(
            f"{len(arguments) - len(first)} arguments in order, and it takes {len(places)} so: "
            f"{', '.join(places)}",
            where=name,
            hint="write the others as name=value",
        )
    by_place = places[: max(0, len(arguments) - len(first))]
    twice = [each for each in by_place if each in settings]
    if twice:
        return ArgumentError(
            f"'{twice[0]}' is given twice", where=name, hint="leave out one of them"
        )
    needed = [each for each in known if parameters[each].default is inspect.Parameter.empty]
    missing = [each for each in needed if each not in by_place and each not in settings]
    return ArgumentError(
        f"'{missing[0]}' is missing",
        where=name,
        hint=_HOW.get(missing[0], f"write {missing[0]}=..."),
    )


_NAMED_ONLY = inspect.Parameter.KEYWORD_ONLY
_HOW = {
    "target": f"write {_TARGET}",
    "max_new_tokens": "write max_new_tokens=24, the tokens of the longest completion",
    "prompts": 'write prompts=["..."], or give a Dataset, a DataFrame or a path',
    "evidence": "write evidence=posteriori.Reward(fn, beta=0.1)",
    "prior": 'write prior=posteriori.load("..."), or give a transformers model',
}


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (_KEYWORDS, inspect.Parameter.VAR_POSITIONAL)


def _check_target(name: str, given: Any) -> None:
    if hasattr(given, "evidence") and hasattr(given, "prompts"):
        return
    raise ConfigError(
        f"the target is a {type(given).__name__}", where=name, hint=f"it comes first: {_TARGET}"
    )
