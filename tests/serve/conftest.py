"""The small posterior by rejection, served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import serving

from posteriori.serve.app import Server


@pytest.fixture
def small() -> Iterator[Server]:
    with serving() as served:
        yield served
