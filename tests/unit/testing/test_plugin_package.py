"""The plugin in `examples/plugin` passes its own tests, which are made of posteriori's checks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = Path(__file__).parents[3] / "examples" / "plugin"


def test_it_passes_its_own_tests():
    """In a process of its own, as the plugin's author runs them."""
    places = [str(PLUGIN / "src"), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(PLUGIN / "tests"),
            "--rootdir",
            str(PLUGIN),
            "-c",
            os.devnull,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
