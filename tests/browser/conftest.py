"""What runs axe is left out where axe is not at hand, unless every tool has to be."""

from __future__ import annotations

import os

from axe import source

_required = os.environ.get("POSTERIORI_TOOLS") == "required"
collect_ignore = [] if source() or _required else ["test_axe.py"]
