"""A small share of `make test-faults`, with a seed of its own so that the suite is the same each
day: kills, damages, fuzz, two writers and full disks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

CAMPAIGN = Path(__file__).parent / "campaign"


@pytest.mark.timeout(600)
def test_a_small_share_of_the_campaign():
    command = [sys.executable, str(CAMPAIGN), "--scale", "0.01", "--seed", "20261130"]
    # Its own process: it forks, and children that are killed leave none of this one's threads.
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy())
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert done.stdout.rstrip().endswith("all is well")
    assert done.stdout.count("\n") > 10
