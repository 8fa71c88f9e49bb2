"""pass@k in evaluations and on the page, of targets whose evidence is a verifier."""

from __future__ import annotations

import pytest

import posteriori as po
from posteriori.report import write_report
from posteriori.report.read.gather import gather
from posteriori.report.result import PolicyResult, Subject
from posteriori.report.write.comparison_tables import comparison
from posteriori.report.write.evaluation_files import report_of_run


def starts_with(completions, letter, **_):
    return [text.startswith(each) for text, each in zip(completions, letter, strict=True)]


@pytest.fixture(scope="module")
def target():
    lm = po.TabularLM.random(["<eos>", "a", "b"], 2, seed=1)
    rows = [{"prompt": "", "letter": "a"}, {"prompt": "", "letter": "z"}]
    return po.Target(lm, po.Verifier(starts_with), rows, 2)


@pytest.fixture(scope="module")
def report(target):
    return po.evaluate(target, target.prior, num_samples=64, seed=0)


def test_an_evaluation_has_pass_at_k(target, report):
    assert list(report.passes) == [f"pass@{k}" for k in (1, 2, 4, 8, 16, 32)]
    right = sum(text.startswith("a") for text in report.draws.texts[:64])
    first = report.passes["pass@1"]
    assert first.value == pytest.approx(right / 64 / 2, rel=1e-9)
    assert [each.value for each in first.per_prompt] == [pytest.approx(right / 64), 0.0]
    values = [each.value for each in report.passes.values()]
    assert values == sorted(values)
    assert "pass@4" in report._repr_html_()
    assert not set(report.passes) & set(report)


def test_a_reward_has_none(target):
    def as_reward(completions, **_):
        return [float(text.startswith("a")) for text in completions]

    other = po.Target(target.prior, po.Reward(as_reward, beta=1.0), [""], 2)
    assert po.evaluate(other, target.prior, num_samples=8).passes == {}


def test_the_page_shows_it_and_bounds_what_is_unsolved(report, tmp_path):
    policies = [PolicyResult.of(name, report, [], "") for name in ("prior", "mine")]
    subject = Subject("", "", policies[1:], policies[0], dict(enumerate(["", ""])), 2)
    page = write_report(tmp_path / "a.html", subject).read_text()
    assert page.count('data-figure="passes"') == 1
    # 1 - 0.05^(1/64) = 4.57%
    assert "has solved 1 of 2 prompts, and pass@1 of the others is below 4.6% each" in page
    names = [row["meaning"].name for row in comparison(policies)]
    assert names[1:4] == ["pass@1", "pass@2", "pass@4"]


def test_a_run_keeps_it(target, report, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "policy").mkdir()
    judging = {"num_samples": 64, "posterior": 0, "seed": 0}
    report_of_run(tmp_path, target, {"prior": report, "mine": report}, judging)
    (policy,) = gather([tmp_path]).results
    assert policy.figures["pass@8"].value == pytest.approx(report.passes["pass@8"].value)
    assert "below 4.6% each" in (tmp_path / "report.html").read_text()
