"""What a notebook shows, tables, reports and runs on disk."""

from __future__ import annotations

import sys
from html.parser import HTMLParser

import pytest
from acts import in_one_line, matches, prior, target, warmth

import posteriori as po

pytest.importorskip("pandas")


def run(folder, **settings):
    return po.fit(target(), "rloo", steps=1, num_samples=2, learning_rate=1e-4, **settings)


RESULTS = {
    "a model": lambda: prior(),
    "a target": lambda: target(),
    "prompts": lambda: po.prompts(["You are"]),
    "completions": lambda: prior().completions(["You are"], [[3]], 4),
    "draws": lambda: po.sample(target(), num_samples=4),
    "a report": lambda: po.evaluate(target(), "tiny", num_samples=4),
    "an estimate": lambda: po.evaluate(target(), "tiny", num_samples=4)["elbo"],
    "a frontier": lambda: po.frontier(target(), num_samples=100, stages=0),
    "a fit": lambda: run(None),
    "a reward": lambda: po.Reward(warmth, beta=0.5),
    "a constraint": lambda: po.constraints.regex("[0-9]+"),
    "pass@k": lambda: po.pass_at_k(
        target([{"prompt": "You are", "answer": "kind"}], po.Verifier(matches)),
        num_samples=4,
        k=[1, 2],
    )["prior"],
}
HTML = ("draws", "a report", "a frontier", "a fit", "pass@k")


@pytest.mark.parametrize("act", RESULTS)
def test_what_is_shown_is_short(act):
    shown = repr(RESULTS[act]())
    assert len(shown) <= 300
    assert "tensor(" not in shown
    assert " object at 0x" not in shown


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert tag in self.open
        while self.open.pop() != tag:
            pass


@pytest.mark.parametrize("act", HTML)
def test_a_notebook_has_a_table(act):
    tags = Tags()
    tags.feed(RESULTS[act]()._repr_html_())
    assert "table" in tags.seen
    assert "script" not in tags.seen


def test_a_report_is_a_data_frame():
    frame = RESULTS["a report"]().to_dataframe()
    assert {"figure", "value", "standard_error"} <= set(frame.reset_index().columns)


def test_draws_are_a_data_frame():
    frame = RESULTS["draws"]().to_dataframe()
    assert len(frame) == 4
    assert {"prompt", "completion", "reward"} <= set(frame.columns)


def test_a_page_of_reports(tmp_path):
    mine = RESULTS["a report"]()
    page = po.report(prior=mine, mine=mine, path=tmp_path / "page.html")
    assert "kl" in page.read_text(encoding="utf-8").lower()


def test_a_run_can_be_overwritten(tmp_path):
    run(None, output_dir=tmp_path / "run")
    (tmp_path / "run" / "mine.txt").write_text("a note")
    run(None, output_dir=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "mine.txt").is_file()


def test_a_policy_generates():
    texts = run(None).policy.generate(["You are"], max_new_tokens=3)
    assert len(texts) == 1


def twice(folder):
    for _ in range(2):
        run(None, output_dir=folder / "run")


MISTAKES = {
    "a figure of another name": (
        lambda folder: RESULTS["a report"]()["kl"],
        "kl_to_target",
    ),
    "the same folder twice": (twice, "overwrite=True"),
    "a report without a folder": (lambda folder: run(None, report=True), "output_dir"),
    "a page of nothing": (lambda folder: po.report(path=folder / "a.html"), "name a run"),
    "a page of draws": (lambda folder: po.report(RESULTS["draws"]()), "evaluate"),
    "a page of an empty folder": (lambda folder: po.report(folder), "run"),
    "one draw": (lambda folder: po.evaluate(target(), "tiny", num_samples=1), "two"),
    "too much wanted": (
        lambda folder: po.frontier(target(), num_samples=100, stages=0).at_kl(50.0),
        "nats",
    ),
    "resume without a folder": (lambda folder: run(None, resume=True), "output_dir"),
}


@pytest.mark.parametrize("act", MISTAKES)
def test_a_mistake_with_results_is_said(tmp_path, act):
    do, told = MISTAKES[act]
    in_one_line(do, tmp_path, told)


@pytest.mark.parametrize(
    ("package", "act"),
    [
        ("pandas", lambda: RESULTS["draws"]().to_dataframe()),
        ("arviz", lambda: RESULTS["draws"]().to_inference_data()),
    ],
)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, package, act):
    monkeypatch.setitem(sys.modules, package, None)
    in_one_line(lambda folder: act(), tmp_path, f"pip install {package}")
