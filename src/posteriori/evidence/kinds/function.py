"""What the kinds of evidence share that are said by a function of the user's."""

from __future__ import annotations

from typing import ClassVar

from posteriori.core.settings.site import Site
from posteriori.core.settings.ways import Way, Ways
from posteriori.evidence.calls.settings import CallSettings


class Called(Way):
    """A way that calls a function or a model for each completion.

    Args:
        calls: how it is called: a cache, workers, time-outs, what becomes of failures.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    calls: CallSettings | None = None


class FunctionWay(Called):
    """A way by the user's own function.

    Args:
        function: the function, as "my_reward.py:score" or "package.module:score".

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    own: ClassVar[str] = "function"
    example: ClassVar[str] = '"my_reward.py:score"'

    function: str

    def check(self, site: Site) -> None:
        site.check_function("function", self.function)


class FunctionKind(Ways):
    """A kind of evidence that is said by a function, without a beta."""

    strays: ClassVar = {
        "beta": ("a {kind} has no 'beta'", "remove it; only a reward has a beta"),
        "max_reward": ("a {kind} has no 'max_reward'", "remove it; it bounds a reward"),
        "model": ("a {kind} cannot be a 'model'", "give it as function = ..."),
    }
