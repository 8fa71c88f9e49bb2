"""What runs axe is left out where axe is not at hand."""

from __future__ import annotations

from axe import source

collect_ignore = [] if source() else ["test_axe.py"]
