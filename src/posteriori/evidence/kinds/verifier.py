"""Verifiable rewards: a completion is correct or it is not."""

from __future__ import annotations

from typing import Any

from posteriori.core.settings.site import Site

from .function import FunctionKind, FunctionWay


class VerifierFunction(FunctionWay):
    """A verifier by the user's function, which says whether a completion is correct.

    See `posteriori.Verifier`.

    Example:
        [[evidence]]
        kind = "verifier"
        function = "my_task.py:correct"
    """

    def build(self, site: Site) -> Any:
        from posteriori.evidence.verifier import Verifier

        return Verifier(site.function("function", self.function), calls=self.calls)


class VerifierKind(FunctionKind):
    """`posteriori.Verifier`."""

    kind = "verifier"
    ways = (VerifierFunction,)
