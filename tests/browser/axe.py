"""axe-core, the checker of accessibility: a file of npm's, read into a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from chromium import Chromium

_PLACES = (
    Path(__file__).parents[2] / "build" / "axe" / "node_modules",
    Path(__file__).parents[2] / "node_modules",
    Path("/usr/lib/node_modules"),
    Path("/usr/local/lib/node_modules"),
    Path("/usr/share/nodejs"),
)
_RUN = """
axe.run({resultTypes: ['violations']}).then((found) => JSON.stringify(found.violations.map(
  (each) => [each.id, each.nodes.length, each.nodes[0].html.slice(0, 200)])))
"""


def source() -> Path | None:
    """axe.min.js: where POSTERIORI_AXE says, or where npm has put it; None where there is none.

    `npm install --prefix build/axe axe-core` puts it there.
    """
    named = os.environ.get("POSTERIORI_AXE")
    places = [Path(named)] if named else [each / "axe-core" / "axe.min.js" for each in _PLACES]
    return next((each for each in places if each.is_file()), None)


def violations(browser: Chromium) -> list[Any]:
    """What axe finds on the page that is open: a rule, how often, and the first element."""
    path = source()
    assert path is not None
    browser.run(f"{path.read_text(encoding='utf-8')};0")
    answer = browser.call(
        "Runtime.evaluate", expression=_RUN, awaitPromise=True, returnByValue=True
    )
    assert "exceptionDetails" not in answer, answer
    return json.loads(answer["result"]["value"])
