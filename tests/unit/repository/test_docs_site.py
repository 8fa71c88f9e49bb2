"""The docs as a site: it builds without a warning, and has every public name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import posteriori as po

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    build(config)
    return folder


def test_every_public_name_is_in_the_reference(site):
    anchors = set()
    for page in (site / "reference").glob("*.html"):
        anchors |= set(re.findall(r'id="(posteriori[\w.]+)"', page.read_text(encoding="utf-8")))
    names = {anchor.rpartition(".")[2] for anchor in anchors}
    assert set(po.__all__) - {"__version__"} <= names


def test_the_search_finds_k_hat(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert "k-hat" in re.split(
        index["config"]["separator"], " ".join(d["text"] for d in index["docs"])
    )


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert [url for url in loaded if "canonical" not in url] == [], page.name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_page_has_an_example(page):
    text = page.read_text(encoding="utf-8")
    # A glossary has words, and the page on scale has a model of memory and time.
    assert "```" in text or page.stem in ("glossary", "scale")
