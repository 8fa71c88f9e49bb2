"""A disk that kills."""

from __future__ import annotations

import pytest
from killed_in_place import Killed

from posteriori.core.journal import pieces


@pytest.fixture
def disk(monkeypatch):
    """Counts the pieces that are written; `disk.dies_at` kills in place of that one."""

    class Disk:
        written = 0
        dies_at: int | None = None

    def write(path, data):
        if disk.written == disk.dies_at:
            disk.dies_at = None
            raise Killed
        disk.written += 1
        whole(path, data)

    disk, whole = Disk(), pieces.write_data
    monkeypatch.setattr(pieces, "write_data", write)
    monkeypatch.setattr(pieces, "_SHARE", 0)
    return disk
