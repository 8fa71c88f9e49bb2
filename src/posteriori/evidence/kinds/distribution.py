"""What the kinds of evidence share that are about distributions: one model of their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from posteriori.core.settings.configured import Configured
from posteriori.core.settings.refused import refuse
from posteriori.core.settings.strict import Strict


class DistributionKind(Configured):
    """A kind of evidence whose table has one key that it needs."""

    kind: ClassVar[str]
    needs: ClassVar[Mapping[str, str]]
    """The keys that it needs, each with how it is written."""

    @classmethod
    def settings_for(cls, table: Mapping[str, Any]) -> type[Strict]:
        for name, example in cls.needs.items():
            if name not in table:
                refuse(f"'{name}' is missing", f"write {example}")
        return cls.Settings
