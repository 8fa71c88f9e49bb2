"""The report in a real browser: nothing that a model wrote runs, and what is ours works."""

from __future__ import annotations

import pytest
from chromium import Chromium, executable
from report_cases import COLLAPSED, HOSTILE, policy_of, sampler_of, subject_of

from posteriori.report import write_report

pytestmark = [
    pytest.mark.skipif(executable() is None, reason="no Chromium is installed"),
    pytest.mark.xdist_group("chromium"),
]
NUMBERS = (0.5, -1.0, 2.0, 0.0, 1.0, 0.75, -0.5, 3.0, 0.1, 0.2)
ROWS = "[...document.querySelector('#samples tbody').rows]"
COLUMN = ROWS + ".map(r => +r.cells[%d].getAttribute('data-%s'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    policies = [
        policy_of(HOSTILE[0], HOSTILE, NUMBERS, findings=[COLLAPSED], description=HOSTILE[1]),
        policy_of("plain", ["good food", "Bad (food)", "x"] * 3 + ["z"], NUMBERS),
    ]
    subject = subject_of(
        policies,
        prompts=[HOSTILE[0]],
        title=HOSTILE[1],
        about=HOSTILE[4],
        settings={HOSTILE[3]: {HOSTILE[2]: HOSTILE[8]}, HOSTILE[5]: {}},
        samplers=[
            sampler_of(HOSTILE[1], description=HOSTILE[8]),
            sampler_of("lost", why=f"want of {HOSTILE[2]}"),
        ],
    )
    return write_report(tmp_path_factory.mktemp("page") / "report.html", subject).as_uri()


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
    scripts = "[...document.scripts].map(s => s.type).join()"
    assert opened.run(scripts) == "application/json,application/json,"
    places = "document.querySelector('[aria-labelledby=samplers-title]').innerText"
    assert "in the plane" in opened.run(places)
    assert "not in the plane, for want of <a href=" in opened.run(places)
    assert "lost: KL to the prior not measured" in opened.run("document.images[0].alt")
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


@pytest.mark.parametrize("key", ["reward", "weight"])
def test_a_heading_sorts_by_keyboard(opened, key):
    button = f"document.querySelectorAll('button[data-sort={key}]')[1]"
    columns = (1, 4) if key == "reward" else (2, 5)
    drawn = [opened.run(COLUMN % (column, key)) for column in columns]
    assert len(set(drawn[0])) == len(NUMBERS)
    opened.run(f"{button}.focus()")
    for order in ("descending", "ascending", None):
        opened.press("Enter", 13)
        assert opened.run(f"{button}.closest('th').getAttribute('aria-sort')") == order
        assert opened.run(f"document.activeElement === {button}")
        for column, before in zip(columns, drawn, strict=True):
            expected = before if order is None else sorted(before, reverse=order == "descending")
            assert opened.run(COLUMN % (column, key)) == expected
    assert complaints(opened) == []


def search(browser: Chromium, words: str) -> list[object]:
    """How many rows are left, what is marked, and what the page says of it."""
    browser.run(
        "{const i = document.getElementById('search');"
        f"i.value = {words!r}; i.dispatchEvent(new Event('input'));}}"
    )
    marks = "[...document.querySelectorAll('#samples mark')].map(m => m.textContent).join('|')"
    return [browser.run(ROWS + ".length"), browser.run(marks), browser.run("matches.textContent")]


def test_search_hides_what_does_not_match(opened):
    assert search(opened, "(FOOD)") == [3, "(food)|(food)|(food)", "3 of 20 completions"]
    assert search(opened, "onerror") == [1, "onerror", "1 of 20 completions"]
    assert search(opened, "no such words")[0] == 0
    assert opened.run("where.textContent") == "none"
    assert search(opened, "") == [10, "", ""]
    assert complaints(opened) == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_and_follows_its_colours(browser, page, width, dark):
    browser.look(width=width, height=800, dark=dark, mobile=width < 500)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(21, 24, 28)") is dark
    for name, visible in (("by-day", not dark), ("by-night", dark)):
        assert (browser.run(f"document.querySelector('.{name}').offsetWidth") > 0) is visible


def test_a_dark_page_is_printed_on_white(browser, page):
    browser.look(width=794, height=1100, dark=True)
    browser.open(page)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", media="print", features=[scheme])
    try:
        assert browser.run("document.querySelector('.by-day').offsetWidth") > 0
        assert browser.run("document.querySelector('.by-night').offsetWidth") == 0
        assert browser.run("document.querySelector('.tools').offsetWidth") == 0
        shown = browser.run("getComputedStyle(document.body).color")
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    assert shown == "rgb(29, 33, 38)"


def test_the_first_stop_of_the_keyboard_skips_to_the_content(opened):
    opened.press("Tab", 9)
    assert opened.run("document.activeElement.textContent") == "Skip to the figures"
    assert opened.run("document.activeElement.getBoundingClientRect().left") >= 0


PLANE = "document.querySelector('[data-figure=plane]')"
TOLD = PLANE + ".querySelector('.told')"
MARK = (
    "(() => { const [x, y, says] = JSON.parse(document.getElementById('marks').textContent).plane"
    ".find(each => each[2].startsWith('plain'));"
    f" const box = {PLANE}.firstElementChild.getBoundingClientRect();"
    " return [box.left + x * box.width, box.top + y * box.height, says]; })()"
)


def test_a_value_is_named_under_the_pointer(opened):
    opened.run(f"{PLANE}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y, says = opened.run(MARK)
    assert says.startswith("plain: KL(policy or sampler, prior) 1.5 nats per completion; mean rew")
    opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 3, y=y - 3)
    told = opened.run(f"{TOLD}.textContent").split("\n")
    assert says in told
    assert len(told) == 2  # both policies, which have the same figures
    inside = "(r => r.left >= 0 && r.right <= innerWidth)"
    assert opened.run(f"{inside}({TOLD}.getBoundingClientRect())")
    opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert opened.run(f"{TOLD}.hidden")
    assert complaints(opened) == []


def test_values_are_read_out_by_keyboard(opened):
    opened.run(f"{PLANE}.focus()")
    spoken = PLANE + ".nextElementSibling.querySelector('output').textContent"
    heard = []
    for _ in range(3):
        opened.press("ArrowRight", 39)
        heard.append(opened.run(spoken))
    assert len(set(heard)) == 3
    assert all(": KL(policy or sampler, prior) " in each for each in heard)
    opened.press("ArrowLeft", 37)
    assert opened.run(spoken) == heard[1]


def test_a_figure_is_looked_at_closely(opened):
    opened.run(f"{PLANE}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    width = opened.run(f"{PLANE}.querySelector('img').offsetWidth")
    height = opened.run(f"{PLANE}.offsetHeight")
    larger, smaller = (
        f"{PLANE}.nextElementSibling.querySelector('[data-zoom={way}]')" for way in ("in", "out")
    )
    assert opened.run(f"{smaller}.disabled")
    opened.run(f"{larger}.click()")
    assert (
        opened.run(f"{PLANE}.querySelector('img').offsetWidth") > 1.4 * width
    )  # a scroll bar has some
    assert opened.run(f"{PLANE}.offsetHeight") == height
    assert opened.run("document.documentElement.scrollWidth") <= 1280
    x, y, says = opened.run(MARK)
    opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert says in opened.run(f"{TOLD}.textContent")
    opened.run(f"{smaller}.click()")
    assert opened.run(f"{PLANE}.querySelector('img').offsetWidth") == width
    opened.run(f"{PLANE}.dispatchEvent(new WheelEvent('wheel', {{deltaY: -200, ctrlKey: true}}))")
    assert opened.run(f"{PLANE}.querySelector('img').offsetWidth") > 2 * width
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.run(f"{PLANE}.querySelector('img').offsetWidth") == width
    assert complaints(opened) == []


MANY = 10_000
AT_ONCE_MS = 200
"""Response to a key or a click that still feels immediate is 100 ms; a busy machine gets twice."""


@pytest.fixture(scope="module")
def long_page(tmp_path_factory) -> str:
    prompts = [f"prompt {at}" for at in range(20)]
    halves = [
        policy_of(
            name,
            [f"{name} wrote {at} " + "words " * 20 for at in range(MANY // 2)],
            [float((at * 7919) % 5003) for at in range(MANY // 2)],
            prompts=prompts,
        )
        for name in ("one", "two")
    ]
    subject = subject_of(halves, prompts=prompts)
    return write_report(tmp_path_factory.mktemp("long") / "report.html", subject).as_uri()


def test_ten_thousand_completions_stay_usable(browser, long_page):
    browser.look(width=1280, height=900)
    browser.open(long_page)
    assert browser.run("document.getElementById('where').textContent") == "1 to 20 of 5,000"
    assert browser.run("performance.getEntriesByType('navigation')[0].domInteractive") < 5_000
    timed = (
        "(() => { const start = performance.now(); %s; document.body.offsetHeight;"
        " return performance.now() - start; })()"
    )
    click = "document.querySelector('button[data-sort=reward]').click()"
    assert browser.run(timed % click) < AT_ONCE_MS
    assert browser.run(COLUMN % (1, "reward"))[:3] == [5002.0, 5001.0, 5000.0]
    typed = "const i = document.getElementById('search'); i.value = 'wrote 49'; "
    assert browser.run(timed % (typed + "i.dispatchEvent(new Event('input'))")) < AT_ONCE_MS
    assert browser.run("matches.textContent") == "222 of 10,000 completions"
    assert browser.run(timed % "document.getElementById('onward').click()") < AT_ONCE_MS
    assert browser.run("document.getElementById('where').textContent") == "21 to 40 of 111"
    choose = "const s = document.getElementById('prompt'); s.value = '9'; "
    assert browser.run(timed % (choose + "s.dispatchEvent(new Event('change'))")) < AT_ONCE_MS
    assert browser.run("matches.textContent") == "12 of 10,000 completions"
    assert complaints(browser) == []
