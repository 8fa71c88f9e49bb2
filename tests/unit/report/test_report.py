"""The HTML report: inert, self-contained, the same twice, and unbroken by odd input."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import (
    COLLAPSED,
    HOSTILE,
    estimate,
    policy_of,
    some_history,
    subject_of,
)

import posteriori as po
from posteriori.report import PolicyResult, figure, write_report
from posteriori.report.draw.theme import DARK, LIGHT
from posteriori.report.safe_text import number, one_line, prompt_text, visible, with_error
from posteriori.report.write.verdict import verdict


def write(tmp_path: Path, results, prior=None, prompts=("",), name="report.html", **changes) -> str:
    subject = subject_of(results, prior, prompts, **changes)
    return write_report(tmp_path / "deep" / name, subject).read_text(encoding="ascii")


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees (scripts and styles apart)."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": [], "data": []}
        self.text, self._inside = "", ""
        self.feed(source)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = "data" if tag == "script" and attrs else tag

    def handle_endtag(self, tag) -> None:
        assert tag
        self._inside = ""

    def handle_data(self, data) -> None:
        if self._inside in self.raw:
            self.raw[self._inside].append(data)
        else:
            self.text += data

    def content_policy(self) -> str:
        return next(a["content"] for _, a in self.tags if "Content-Security-Policy" in a.values())


class TestSafety:
    @pytest.fixture(scope="class")
    def source(self, tmp_path_factory):
        tmp_path = tmp_path_factory.mktemp("hostile")
        hostile = policy_of(HOSTILE[0], HOSTILE, description=HOSTILE[1], findings=[COLLAPSED])
        named = [policy_of(text, HOSTILE) for text in (HOSTILE[3], HOSTILE[4], "_hidden")]
        config = {HOSTILE[0]: {HOSTILE[1]: HOSTILE[2]}}
        runs = {HOSTILE[3]: config}
        settings = {"title": HOSTILE[1], "settings": runs, "versions": runs}
        return write(tmp_path, [hostile, *named], hostile, prompts=[HOSTILE[1]], **settings)

    def test_the_policy_allows_one_script_and_one_style_by_hash(self, source):
        page = Page(source)
        policy = dict(part.strip().split(" ", 1) for part in page.content_policy().split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["img-src"] == "data:"
        for name, directive in (("script", "script-src"), ("style", "style-src")):
            (content,) = page.raw[name]
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert policy[directive] == f"'sha256-{digest}'"

    def test_the_completions_are_data_that_cannot_leave_their_element(self, source):
        marks, content = Page(source).raw["data"]
        assert "<" not in marks
        assert json.loads(marks)["plane"]
        assert not set("<>&") & set(content)
        texts = json.loads(content)["columns"][0]["text"]
        assert texts[0] == HOSTILE[0]
        assert texts[1] == HOSTILE[1]

    def test_generated_text_makes_no_elements_and_no_handlers(self, source):
        for tag, attributes in Page(source).tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert tag not in {"base", "iframe", "object", "link", "form"}
            link = attributes.get("href") or attributes.get("src") or "#"
            assert link.startswith(("#", "data:image/svg+xml;base64,"))

    def test_nothing_outside_is_named(self, source):
        assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"evil\.example|//evil", "", source))
        assert "@import" not in source
        assert "url(" not in source
        for match in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", source):
            drawn = base64.b64decode(match).decode()
            assert "<script" not in drawn
            assert not re.findall(r"href=\"(?!#)", drawn)

    def test_dark_figures_have_no_light_colours(self, source):
        drawn = [
            base64.b64decode(match).decode()
            for match in re.findall(r"by-night\" src=\"data:image/svg\+xml;base64,([^\"]+)", source)
        ]
        assert drawn
        assert not any(color in svg for svg in drawn for color in (LIGHT.ink, *LIGHT.series))
        assert any(DARK.series[0] in svg for svg in drawn)

    def test_text_is_shown_as_it_is(self, source):
        text = Page(source).text
        for written in (HOSTILE[0], HOSTILE[2], HOSTILE[3], HOSTILE[8]):
            assert written in text

    def test_control_characters_are_spelt_out(self, source):
        text = html.unescape(source)
        assert not re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
        assert "\u241b[31mred" in text
        assert "\\u202e" in text
        assert "\\ud83d" in text

    def test_the_file_is_ascii_and_small(self, source):
        assert source.isascii()
        assert len(source) < 3_000_000


class TestDeterminism:
    def test_same_input_same_bytes(self, tmp_path):
        results = [policy_of("rl", findings=[COLLAPSED]), policy_of("rloo")]
        first = write(tmp_path, results, policy_of("prior", history=[]), name="1.html")
        assert first == write(tmp_path, results, policy_of("prior", history=[]), name="2.html")

    @pytest.mark.parametrize("suffix", ["svg", "png"])
    def test_the_figure_too(self, tmp_path, suffix):
        results = [policy_of("rl"), policy_of("rloo $x^2$ \U0001f600")]
        for name in "ab":
            figure(results, policy_of("prior", history=[]), tmp_path / f"{name}.{suffix}")
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second
        assert len(first) > 5_000

    def test_matplotlib_is_left_as_it_was(self, tmp_path):
        import matplotlib

        before = dict(matplotlib.rcParams)
        write(tmp_path, [policy_of("rl")])
        assert dict(matplotlib.rcParams) == before


UNUSUAL = {
    "nothing at all": lambda: ([], None, [""]),
    "the prior alone": lambda: ([], policy_of("prior", history=[]), [""]),
    "zero steps": lambda: ([policy_of("a", history=[])], None, [""]),
    "one step": lambda: ([policy_of("a", history=some_history(1))], None, [""]),
    "many steps": lambda: ([policy_of("a", history=some_history(5_000))], None, [""]),
    "missing keys": lambda: (
        [
            policy_of(
                "a", history=[{}, {"step": 1}, {"entropy": None}, {"entropy": True, "elbo": 1}]
            )
        ],
        None,
        [""],
    ),
    "words for numbers": lambda: (
        [
            policy_of(
                "a",
                history=[
                    {"step": 0, "entropy": "inf", "elbo": "-inf", "seconds": "nan"},
                    {"step": 1, "entropy": "2.5", "elbo": 10**400, "lm_tokens": "inf"},
                    {"step": "x", "entropy": [1], "elbo": 1e300},
                ],
            )
        ],
        None,
        [""],
    ),
    "forbidden rewards": lambda: (
        [policy_of("a", rewards=[-math.inf, 0.3]), policy_of("b", rewards=[-math.inf] * 2)],
        None,
        [""],
    ),
    "extreme rewards": lambda: ([policy_of("a", rewards=[1e14, -1e14])], None, [""]),
    "infinite figures": lambda: (
        [
            policy_of(
                "a",
                kl_to_target=estimate(math.inf, 0.0, "exact"),
                log_z=estimate(-math.inf, math.inf),
                entropy=estimate(math.nan, math.nan),
                mean_reward=estimate(-math.inf, 0.0),
                kl_to_prior=estimate(math.inf, 0.0),
                elbo=estimate(1e300, 1e290),
                figure_of_tomorrow=estimate(0.25),
            )
        ],
        policy_of("prior", entropy=estimate(math.nan, math.nan), history=[]),
        [""],
    ),
    "empty completions": lambda: ([policy_of("a", [""] * 5)], policy_of("prior", [""]), [""]),
    "long completions": lambda: ([policy_of("a", ["word " * 10_000] * 5)], None, [""]),
    "messages": lambda: (
        [policy_of("a", prompts=MESSAGES)],
        None,
        MESSAGES,
    ),
    "hundreds of prompts": lambda: (
        [
            policy_of(
                "a",
                ["text"] * 600,
                prompts=[f"prompt {i}" for i in range(300)],
                kl_to_target=po.Estimate(
                    1.0, 0.1, "consistent", 600, per_prompt=tuple(map(estimate, range(300)))
                ),
            )
        ],
        None,
        [f"prompt {i}" for i in range(300)],
    ),
    "a dozen policies": lambda: ([policy_of(f"policy {i}") for i in range(12)], None, [""]),
}
MESSAGES = [
    [{"role": "system", "content": "Be <b>kind</b>."}, {"role": "user", "content": "Hi"}],
    [{"role": "user", "content": [{"type": "text", "text": "in parts"}, {"type": "image"}]}],
]


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_input_still_makes_a_page(tmp_path, case):
    results, prior, prompts = UNUSUAL[case]()
    text = Page(write(tmp_path, results, prior, prompts)).text
    assert "Comparison" in text
    assert not re.findall(r"\b(nan|inf|-inf|None)\b", text)


def test_chat_prompts_and_their_number_are_shown(tmp_path):
    results, prior, prompts = UNUSUAL["messages"]()
    text = Page(write(tmp_path, results, prior, prompts)).text
    assert "system: Be <b>kind</b>. user: Hi" in text
    results, prior, prompts = UNUSUAL["hundreds of prompts"]()
    text = Page(write(tmp_path, results, prior, prompts)).text
    assert "All 300" in text
    assert "100 of 300 prompts" in text
    worst = text[text.index("prompt by prompt") :]
    assert worst.index("prompt 299") < worst.index("prompt 298")


def test_figures_that_are_not_known_yet_are_shown_last(tmp_path):
    results, prior, prompts = UNUSUAL["infinite figures"]()
    text = Page(write(tmp_path, results, prior, prompts)).text
    assert "infinite" in text
    assert "minus infinity" in text
    assert "unknown" in text
    assert text.index("Figure of tomorrow") > text.index("log Z of its target")


def test_a_report_on_a_real_run(tmp_path):
    words = ["<eos>", "good", "bad"]
    prior = po.TabularLM.random(words, 3, ("x", "y"), seed=1)
    reward = po.Reward(lambda completions, **_: [float(c.count("good")) for c in completions], 1.0)
    target = po.Target(prior, [reward], ["x", "y"], 3)
    fit = po.fit(target, "rloo", steps=3, num_samples=4, learning_rate=0.1, seed=0)
    result = PolicyResult.of("rloo", po.evaluate(target, fit.policy, 50), fit.history, "trained")
    start = PolicyResult.of("prior", po.evaluate(target, prior, 50), [], "before")
    path = write_report(tmp_path / "report.html", subject_of([result], start, ["x", "y"]))
    page = Page(path.read_text())
    assert "KL to the target, prompt by prompt" in page.text
    assert [tag for tag, _ in page.tags].count("img") == 14
    assert "rloo is " in page.text
    assert "Reward while training" in page.text
    assert "KL to the prior while training" in page.text


def test_several_reward_functions_have_a_figure_each(tmp_path):
    prior = po.TabularLM.random(["<eos>", "good", "bad"], 3, ("x", "y"), seed=1)

    def good(completions, **_):
        return [float(c.count("good")) for c in completions]

    def short(completions, **_):
        return [-float(len(c)) for c in completions]

    target = po.Target(prior, [po.Reward([good, short], 1.0)], ["x", "y"], 3)
    fit = po.fit(target, "rloo", steps=3, num_samples=4, learning_rate=0.1, seed=0)
    result = PolicyResult.of("rloo", po.evaluate(target, fit.policy, 50), fit.history, "trained")
    path = write_report(tmp_path / "report.html", subject_of([result], None, ["x", "y"]))
    text = Page(path.read_text()).text
    assert "Reward 'good' while training" in text
    assert "Reward 'short' while training" in text


class TestVerdict:
    def test_who_collapsed_and_how_far_the_others_are(self):
        rl = policy_of("rl", findings=[COLLAPSED], unique_fraction=estimate(0.03))
        rloo = policy_of("rloo (beta 0.1)")
        assert verdict([rl, rloo]) == (
            "rl collapsed: 3% distinct completions; "
            "rloo (beta 0.1) is 0.42 ± 0.05 nats from its posterior."
        )
        assert "(the prior has 90%)" in verdict([rl], policy_of("prior"))

    def test_what_is_not_finite_is_said_in_words(self):
        infinite = policy_of("a", kl_to_target=estimate(math.inf, 0.0, "exact"))
        unknown = policy_of("b", kl_to_target=estimate(-math.inf, math.inf))
        assert "infinitely far" in verdict([infinite])
        assert "unknown distance" in verdict([unknown])
        assert verdict([]) == "No policy was evaluated."

    def test_a_figure_that_is_not_trusted_is_a_bound(self):
        doubt = po.Finding("warn", "weights_not_trusted", "", "")
        assert "probably more than 0.42" in verdict([policy_of("a", findings=[doubt])])

    def test_many_policies_are_summed_up(self):
        fallen = [policy_of(f"rl {i}", findings=[COLLAPSED]) for i in range(6)]
        near = policy_of("near", kl_to_target=estimate(0.1, 0.01))
        sentence = verdict([*fallen, policy_of("far"), near])
        assert sentence.startswith("6 of 8 policies collapsed")
        assert sentence.endswith("the nearest, near, is 0.100 ± 0.010 nats from its posterior.")
        assert verdict(fallen).startswith("6 of 6")


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "error", "shown"),
        [
            (0.421, 0.052, "0.42 ± 0.05"),
            (12.3456, 1.23, "12.3 ± 1.2"),
            (-0.05, 0.3, "\u22120.1 ± 0.3"),
            (1234567.0, 30.0, "1,234,567 ± 30"),
            (1.0, 0.0, "1"),
            (1.0, math.nan, "1"),
            (2.0, 1e-9, "2.0000 ± less than 1e\u22124"),
            (math.inf, 0.0, "infinite"),
            (math.nan, math.nan, "unknown"),
            (-0.0, 0.0, "0"),
            (-0.001, 0.1, "0.00 ± 0.10"),
            (1e300, 1e290, "1.00e+300"),
        ],
    )
    def test_as_many_places_as_the_error_supports(self, value, error, shown):
        assert with_error(estimate(value, error)) == shown

    def test_percent(self):
        assert with_error(estimate(0.632, 0.011), percent=True) == "63.2 ± 1.1%"

    @pytest.mark.parametrize(
        ("value", "shown"),
        [(0.0, "0"), (-0.0, "0"), (1234.0, "1,234"), (0.00012345, "0.000123"), (-5.5, "\u22125.5")],
    )
    def test_significant_digits(self, value, shown):
        assert number(value) == shown

    def test_text(self):
        assert visible("abc" * 10, 6) == "abcabc … (24 more characters)"
        assert one_line("a\n\tb   c") == "a \u2409b c"
        assert prompt_text("") == "(empty prompt)"
        assert prompt_text([]) == "(empty conversation)"
