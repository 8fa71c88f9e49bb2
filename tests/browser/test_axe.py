"""axe finds no violation on the report and the docs, wide and on a phone, by day and by night."""

from __future__ import annotations

import pytest
from axe import source, violations
from chromium import Chromium, executable
from docs_site import built_site
from report_cases import COLLAPSED, HOSTILE, policy_of, sampler_of, subject_of

from posteriori.report import write_report

pytestmark = [
    pytest.mark.skipif(executable() is None, reason="no Chromium is installed"),
    pytest.mark.skipif(source() is None, reason="npm has not installed axe-core"),
    pytest.mark.xdist_group("chromium"),
]
DOCS = (
    "index.html",
    "samplers.html",
    "tutorials/1-first-posterior.html",
    "reference/fine-tuning.html",
    "evaluate.html",
)
SCREENS = {"wide": (1400, False), "a phone": (390, False), "a phone by night": (390, True)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        # axe is a script of ours that the report's own policy would stop.
        started.call("Page.setBypassCSP", enabled=True)
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    policies = [
        policy_of(name, ["good food", *HOSTILE[:4]], [0.1, 1.0, 2.0, -1.0, 0.0], findings=found)
        for name, found in (("one", [COLLAPSED]), ("two", []), ("three", []), ("four", []))
    ]
    subject = subject_of(
        policies,
        prompts=["You are", "My friend is"],
        samplers=[sampler_of("smc")],
        settings={"one": {"steps": "3"}, "two": {"steps": "4"}},
    )
    return write_report(tmp_path_factory.mktemp("page") / "report.html", subject).as_uri()


def found(browser: Chromium, url: str, screen: str):
    width, dark = SCREENS[screen]
    browser.look(width=width, height=900, dark=dark, mobile=width < 500)
    browser.open(url)
    assert browser.run("document.documentElement.scrollWidth") <= width
    return violations(browser)


@pytest.mark.parametrize("screen", SCREENS)
def test_the_report(browser, report, screen):
    assert found(browser, report, screen) == []


def test_a_report_with_a_fault_is_caught(browser, report):
    """The control for the test above."""
    browser.look(width=1400, height=900)
    browser.open(report)
    browser.run("document.images[0].removeAttribute('alt')")
    assert [each[0] for each in violations(browser)] == ["image-alt"]


@pytest.mark.parametrize("page", DOCS)
def test_the_docs(browser, tmp_path_factory, page):
    url = (built_site(tmp_path_factory) / page).as_uri()
    assert found(browser, url, "a phone" if page == DOCS[-1] else "wide") == []


def test_a_phone_shows_every_column(browser, report):
    """All policies of a row stand below each other, within the screen."""
    browser.look(width=390, height=844, mobile=True)
    browser.open(report)
    cells = "[...document.querySelectorAll('#comparison td, #samples td.text')]"
    inside = ".every(c => c.getBoundingClientRect().right <= 390)"
    assert browser.run(cells + inside)
    named = "[...document.querySelectorAll('#samples tbody tr:first-child .text .who')]"
    assert browser.run(named + ".map(w => w.innerText).join()") == "one,two,three,four"
