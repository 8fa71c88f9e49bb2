"""The report in a real browser: nothing that a model wrote runs, and what is ours works."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Chromium, executable
from report_cases import COLLAPSED, HOSTILE, policy_of, target_of

from posteriori.report import write_report

pytestmark = [
    pytest.mark.skipif(executable() is None, reason="no Chromium is installed"),
    pytest.mark.xdist_group("chromium"),
]
NUMBERS = (0.5, -1.0, 2.0, 0.0, 1.0, 0.75, -0.5, 3.0, 0.1, 0.2)
VALUES = "[...document.querySelectorAll('#samples tbody')].map(b => [...b.rows].slice(1)"
COLUMN = VALUES + ".map(r => +r.cells[%d].getAttribute('data-reward')))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    policies = [
        policy_of(HOSTILE[0], HOSTILE, findings=[COLLAPSED], description=HOSTILE[1]),
        policy_of("plain", ["good food", "Bad (food)", "x"] * 3 + ["z"]),
    ]
    for policy in policies:
        policy.report.draws.reward_N[:] = policy.report.draws.reward_N.new_tensor(NUMBERS)
    path = write_report(
        tmp_path_factory.mktemp("page") / "report.html",
        title=HOSTILE[1],
        target=target_of([HOSTILE[0]]),
        results=policies,
        config={HOSTILE[2]: HOSTILE[8]},
        versions={},
    )
    return Path(path).as_uri()


@pytest.fixture
def opened(browser, page) -> Chromium:
    browser.look(width=1280, height=900)
    browser.open(page)
    return browser


def complaints(browser: Chromium) -> list[object]:
    """Violations of the content policy, script errors and anything on the console."""
    names = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    browser.run("0")  # what was said before this answer has now arrived
    return [event["params"] for event in browser.events if event.get("method") in names]


def test_nothing_runs_and_nothing_is_asked_for(opened, page):
    requests = [
        event["params"]["request"]["url"]
        for event in opened.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert requests[0] == page
    assert all(url.startswith("data:image/svg+xml;base64,") for url in requests[1:])
    assert opened.run("document.title").startswith("</script>")
    assert opened.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert opened.run("document.scripts.length") == 1
    assert complaints(opened) == []


def test_the_content_policy_would_stop_a_script(opened):
    """The control for the test above: an element that did get in is stopped, and is heard of."""
    opened.run(
        "void document.body.insertAdjacentElement('beforeend', Object.assign("
        "document.createElement('img'), {src: 'https://example.invalid/x.png'}))"
    )
    handler = "document.body.lastElementChild.setAttribute('onclick', 'document.title = 1')"
    assert "TrustedScript" in opened.run(
        f"(() => {{ try {{ {handler} }} catch (e) {{ return `${{e}}` }} }})()"
    )
    opened.run("document.body.lastElementChild.click()")
    assert opened.run("document.title").startswith("</script>")
    assert "Content Security Policy" in str(complaints(opened))


def test_a_heading_sorts_by_keyboard(opened):
    button = "document.querySelectorAll('button[data-sort=reward]')[1]"
    assert opened.run(COLUMN % 1) == [list(NUMBERS)]
    opened.run(f"{button}.focus()")
    for order, expected in (
        ("descending", sorted(NUMBERS, reverse=True)),
        ("ascending", sorted(NUMBERS)),
        (None, list(NUMBERS)),
    ):
        opened.press("Enter", 13)
        assert opened.run(f"{button}.closest('th').getAttribute('aria-sort')") == order
        assert opened.run(f"document.activeElement === {button}")
        for column in (1, 4):
            assert opened.run(COLUMN % column) == [expected]
    assert complaints(opened) == []


def test_search_hides_what_does_not_match(opened):
    def search(words: str) -> list[object]:
        opened.run(
            "{const i = document.getElementById('search');"
            f"i.value = {words!r}; i.dispatchEvent(new Event('input'));}}"
        )
        rows = VALUES + ".filter(r => !r.hidden).length).reduce((a, b) => a + b)"
        marks = "[...document.querySelectorAll('#samples mark')].map(m => m.textContent).join('|')"
        return [opened.run(rows), opened.run(marks), opened.run("matches.textContent")]

    assert search("(FOOD)") == [3, "(food)|(food)|(food)", "3 of 20 completions"]
    assert search("onerror") == [1, "onerror", "1 of 20 completions"]
    assert search("no such words")[0] == 0
    assert search("") == [10, "", ""]
    assert complaints(opened) == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_and_follows_its_colours(browser, page, width, dark):
    browser.look(width=width, height=800, dark=dark, mobile=width < 500)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(21, 24, 28)") is dark
    shown = browser.run("document.images[0].currentSrc === document.images[0].src")
    assert shown is not dark


def test_the_first_stop_of_the_keyboard_skips_to_the_content(opened):
    opened.press("Tab", 9)
    assert opened.run("document.activeElement.textContent") == "Skip to the comparison"
    assert opened.run("document.activeElement.getBoundingClientRect().left") >= 0
