"""A user's reward, likelihood or constraint by name: `file.py:name` or `package.module:name`.

It is first parsed without being run, so that a misspelt name is reported before a model is loaded
and `--dry-run` executes no code of the user's; then imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posteriori.core.user_functions.user_code import PROVIDED
from posteriori.errors import ConfigError, did_you_mean

_HINT = 'write function = "my_reward.py:score" or "package.module:score"'


def check_function(reference: str, folder: Path, where: str) -> None:
    """Raise `ConfigError` unless `reference` names something that a file or module defines."""
    place, name = _split(reference, where)
    source = _source(place, folder, where)
    if source is None:
        return
    try:
        tree = ast.parse(source.read_bytes(), str(source))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(
            f"'{source}{line}' is not Python: {what}", where=where, hint="mend that line"
        ) from error
    defined = set(_names(tree.body))
    if name not in defined and "*" not in defined and "__getattr__" not in defined:
        raise ConfigError(
            f"'{source}' defines no '{name}'", where=where, hint=did_you_mean(name, defined)
        )


def check_needs(reference: str, folder: Path, where: str, columns: Sequence[str]) -> None:
    """Raise `ConfigError` where the function must have an argument that neither the library nor a
    column of the prompts provides. Nothing of the user's is run."""
    place, name = _split(reference, where)
    source = _source(place, folder, where)
    if source is None:
        return
    for node in ast.parse(source.read_bytes(), str(source)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            if node.decorator_list:
                return  # its real signature may be another
            needed = [each for each in _required(node.args) if each not in {*PROVIDED, *columns}]
            if needed:
                raise ConfigError(
                    f"'{name}' ({source}:{node.lineno}) needs an argument '{needed[0]}' that "
                    "nothing provides",
                    where=where,
                    hint=f"add a data-set column of that name; there are: "
                    f"{', '.join((*PROVIDED, *columns))}",
                )


def _required(arguments: ast.arguments) -> list[str]:
    plain = [*arguments.posonlyargs, *arguments.args]
    plain = plain[: len(plain) - len(arguments.defaults)]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [each.arg for each in (*plain, *(each for each, default in pairs if default is None))]


def load_function(reference: str, folder: Path, where: str) -> Callable[..., Any]:
    """Import what `reference` names. Raises `ConfigError` where its file fails while it runs."""
    place, name = _split(reference, where)
    try:
        with _searched_first(folder):
            file = _is_file(place)
            module = _from_file(folder / place) if file else importlib.import_module(place)
        found = getattr(module, name)
    except Exception as error:  # a user's module can fail in any way
        raise ConfigError(
            f"importing '{place}' raised {type(error).__name__}: {error}",
            where=where,
            hint="mend it, or install what it needs",
        ) from error
    if not callable(found):
        raise ConfigError(
            f"'{reference}' is a {type(found).__name__}, not a function", where=where, hint=_HINT
        )
    return found


@contextmanager
def _searched_first(folder: Path) -> Generator[None]:
    """Within it modules are looked for in `folder` first, as Python does for a script; afterwards
    last: a `datasets.py` of the user's is not taken for the package that we import later."""
    place = str(folder)
    known = place in sys.path
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
        if not known:
            sys.path.append(place)


def _split(reference: str, where: str) -> tuple[str, str]:
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise ConfigError(f"'{reference}' does not name a function", where=where, hint=_HINT)
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _source(place: str, folder: Path, where: str) -> Path | None:
    """The file behind `place`; None for a module that is not written in Python."""
    if _is_file(place):
        file = folder / place
        if not file.is_file():
            raise ConfigError(
                f"there is no file '{file}'", where=where, hint="paths are relative to the config"
            )
        return file
    local = folder.joinpath(*place.split("."))
    for file in (local.with_suffix(".py"), local / "__init__.py"):
        if file.is_file():
            return file
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ConfigError(f"there is no module '{place}'", where=where, hint=_HINT)
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _from_file(file: Path) -> Any:
    """Two files of one name in different folders are two modules, and imports run once."""
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    name = f"_posteriori_user_{file.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # a module that was cut short must not be found half-made; it goes on up
        del sys.modules[name]
        raise
    return module


def _names(body: Sequence[ast.stmt]) -> Generator[str]:
    """Names that a module's top level binds, branches included; "*" for a star import."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                yield alias.asname or alias.name.split(".")[0]
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            yield from _names(statement.body)
            yield from _names(getattr(statement, "orelse", []))
            yield from _names(getattr(statement, "finalbody", []))
            for handler in getattr(statement, "handlers", []):
                yield from _names(handler.body)
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
