"""The docs' site, built once for all workers of a test run."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def built_site(factory: pytest.TempPathFactory) -> Path:
    """Its folder. Tutorials are not run: a test of their own does that."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / "docs-site", shared / "docs-site.done"
    with open(shared / "docs-site.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            from mkdocs.commands.build import build
            from mkdocs.config import load_config

            os.environ["DOCS_EXECUTE"] = "0"
            build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
            done.touch()
    return folder
