"""Every package in `examples` passes its own tests, which are made of posteriori's checks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_they_pass_their_own_tests():
    """In a process of its own, as a plugin's author runs them."""
    for package in sorted(file.parent for file in EXAMPLES.glob("*/pyproject.toml")):
        places = [str(package / "src"), os.environ.get("PYTHONPATH", "")]
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *(str(package / "tests"), "--rootdir", str(package), "-c", os.devnull),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{package.name}: {ran.stdout}{ran.stderr}"
