"""The docs as a site: it builds without a warning, and has every public name."""

from __future__ import annotations

import json
import re

import pytest
from docs_site import ROOT, built_site

import posteriori as po

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return built_site(tmp_path_factory)


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


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_every_page_has_an_example(page):
    text = page.read_text(encoding="utf-8")
    # A glossary has words, and the page on scale has a model of memory and time.
    assert "```" in text or page.stem in ("glossary", "scale")


ASKED = {
    "A GPU": "gpu.html",
    "several GPUs": "several-processes.html",
    "notebooks": "notebooks.html",
    "API reference": "reference/fine-tuning.html",
    "settings": "reference/settings.html",
    "chat prompts": "chat.html",
    "generating text": "chat.html#generating",
    "k-hat": "reliability.html#k-hat",
    "how to cite": "paper.html#how-to-cite",
    "TRL's names": "from-trl.html",
    "why not TRL": "why.html",
    "figures": "gallery.html",
}


@pytest.mark.parametrize("what", ASKED)
def test_what_people_ask_for_is_there(site, what):
    page, _, anchor = ASKED[what].partition("#")
    text = (site / page).read_text(encoding="utf-8")
    assert not anchor or f'id="{anchor}"' in text


def test_each_objective_has_its_settings_on_a_page(site):
    from posteriori.core.registry import OBJECTIVES

    text = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for name in OBJECTIVES:
        assert f"<code>{name}</code>" in text
