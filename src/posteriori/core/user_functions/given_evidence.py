"""What is given as a target's evidence, refused in one line where it is none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from posteriori.core.hooks import AsksFunctions
from posteriori.core.protocols import Evidence, PriorEvidence
from posteriori.data.plain_values import is_sequence
from posteriori.errors import ConfigError, EvidenceError

from .user_code import PROVIDED, place_of_function


def checked_evidence(given: Any) -> tuple[Any, ...]:
    """One piece of evidence, or several. Raises `ConfigError` for a bare function, a name, a class
    or a model, and says what makes evidence of it."""
    several: list[Any] = list(given) if is_sequence(given) else [given]
    for each in several:
        if isinstance(each, type) or not isinstance(each, Evidence | PriorEvidence):
            raise _refused(each)
    return tuple(several)


def _refused(given: Any) -> ConfigError:
    name = getattr(given, "__name__", type(given).__name__)
    if isinstance(given, type):
        return ConfigError(
            f"the evidence is the class {name} itself", hint=f"write {name}(...) with its settings"
        )
    if isinstance(given, str):
        return ConfigError(
            f"the evidence is the string {given[:60]!r}",
            hint="a reward model's path goes into posteriori.Reward(path, beta=0.1)",
        )
    if hasattr(given, "config") and callable(given):
        return ConfigError(
            f"the evidence is a {type(given).__name__}",
            hint="write posteriori.Reward(model, beta=0.1)",
        )
    if callable(given):
        return ConfigError(
            f"the evidence is the bare function '{name}'",
            hint=f"write posteriori.Reward({name}, beta=0.1), or posteriori.Constraint({name})",
        )
    return ConfigError(
        f"the evidence is a {type(given).__name__}, which is none",
        hint="write posteriori.Reward(fn, beta=0.1), or [] for the prior itself",
    )


def missing_argument(fn: Callable[..., Any], names: Iterable[str]) -> str | None:
    """An argument that `fn` must have and that is not among `names`, with or without **kwargs."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return None
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = set(names)
    for each in parameters:
        needed = each.default is inspect.Parameter.empty and each.kind not in variable
        if needed and each.name not in known:
            return each.name
    return None


def check_arguments(evidence: Iterable[Any], columns: Iterable[str]) -> None:
    """Raise `EvidenceError` for a function that needs a column which the prompts do not have."""
    names = (*PROVIDED, *columns)
    for each in evidence:
        for where, fn in _functions_of(each):
            missing = missing_argument(fn, names)
            if missing is not None:
                raise lacking(missing, names, where, fn)


def lacking(missing: str, names: Iterable[str], where: str, fn: Any = None) -> EvidenceError:
    place = "" if fn is None else place_of_function(fn)
    return EvidenceError(
        f"it needs an argument '{missing}' that nothing provides",
        where=where,
        hint=f"add a data-set column of that name; there are: {', '.join(names)}"
        + (f" (it is defined at {place})" if place else ""),
    )


def _functions_of(evidence: Any) -> Sequence[tuple[str, Callable[..., Any]]]:
    return evidence.functions if isinstance(evidence, AsksFunctions) else ()


def _name(fn: Any) -> str:
    return getattr(fn, "__name__", None) or type(fn).__name__


def placed(error: EvidenceError, evidence: Any) -> EvidenceError:
    """The error with the file and line of the function that it is about, unless it has them."""
    for _, fn in _functions_of(evidence):
        place = place_of_function(fn)
        file = place.rpartition(":")[0]
        if place and f"'{_name(fn)}" in (error.where or "") and file not in str(error):
            hint = f"{error.hint} (it is defined at {place})" if error.hint else f"see {place}"
            return type(error)(error.what, where=error.where, hint=hint)
    return error
