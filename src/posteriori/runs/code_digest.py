"""What a user's function computes, as bytes to hash: its code, and the values that it reads.

Python's own libraries, installed packages and this one are known by name alone: a run says which
versions made it. Values that the code itself changes (a counter, a cache) are state and are left
out; so is a list or a dictionary beside code that changes any.
"""

from __future__ import annotations

import dis
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_CHANGING = frozenset(
    (
        *("append", "add", "update", "extend", "insert", "setdefault", "appendleft"),
        *("pop", "popitem", "clear", "remove", "discard"),
    )
)
_CHANGING_OPERATIONS = frozenset(("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"))
_MUTABLE = (list, dict, set, bytearray)


def is_library(module: str | None) -> bool:
    """Whether a module is installed, built in or ours, rather than the user's."""
    if module is None:
        return False
    root = module.partition(".")[0]
    if root == "posteriori" or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return root != "__main__"
    file = getattr(sys.modules.get(module), "__file__", None)
    installed = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return file is not None and any(Path(file).is_relative_to(place) for place in installed)


def code_parts(code: CodeType) -> Iterator[Any]:
    """The instructions, names and constants of code and of the functions inside it."""
    yield code.co_code
    yield [*code.co_names, *code.co_freevars, *code.co_varnames]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_parts(constant)
        elif constant is not Ellipsis:
            yield constant


def values_read(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    """What the function's body takes from outside: defaults, closure and module, by name."""
    codes = list(_nested(fn.__code__))
    changes = any(_changes(code) for code in codes)
    rebound = {name for code in codes for name in _stored(code, "STORE_DEREF")}
    for at, value in enumerate(fn.__defaults__ or ()):
        if _settled(value, changes):
            yield f"default {at}", value
    for name, value in sorted((fn.__kwdefaults__ or {}).items()):
        if _settled(value, changes):
            yield f"default {name}", value
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        if name not in rebound and _settled(value, changes):
            yield name, value
    rebound = _rebound_globals(fn.__globals__)
    for name in sorted({name for code in codes for name in code.co_names}):
        value = fn.__globals__.get(name)
        known = name in fn.__globals__ and name not in rebound
        if known and not isinstance(value, ModuleType) and _settled(value, changes):
            yield name, value


def settings_of(instance: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object of a user's class that its methods only read, by name."""
    codes = [
        code
        for cls in type(instance).__mro__
        for name, method in vars(cls).items()
        if isinstance(method, FunctionType) and name != "__init__"
        for code in _nested(method.__code__)
    ]
    rebound = {name for code in codes for name in _stored(code, "STORE_ATTR")}
    changes = any(_changes(code) for code in codes)
    for name, value in sorted(getattr(instance, "__dict__", {}).items()):
        if name not in rebound and _settled(value, changes):
            yield name, value


def _settled(value: Any, changes: bool) -> bool:
    return not (changes and isinstance(value, _MUTABLE))


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _stored(code: CodeType, operation: str) -> Iterator[str]:
    return (each.argval for each in dis.get_instructions(code) if each.opname == operation)


def _changes(code: CodeType) -> bool:
    if _CHANGING.intersection(code.co_names):
        return True
    return any(each.opname in _CHANGING_OPERATIONS for each in dis.get_instructions(code))


def _rebound_globals(module: dict[str, Any]) -> set[str]:
    functions = [each for each in module.values() if isinstance(each, FunctionType)]
    return {
        name
        for fn in functions
        if fn.__globals__ is module
        for code in _nested(fn.__code__)
        for name in _stored(code, "STORE_GLOBAL")
    }
