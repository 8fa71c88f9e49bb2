"""What was asked beside a reward, in Python: wanted means and preference pairs are on the page."""

from __future__ import annotations

import json
from html import unescape

import pytest

import posteriori as po
from posteriori.models.tabular import TabularLM

WORDS = ("<eos>", "x", "y")
PROMPTS = "abcdefghijklmnopqrstuvw"
PAIRS = [
    {"prompt": prompt, "chosen": chosen, "rejected": [2, 0]}
    for prompt in PROMPTS
    for chosen in ([1, 0], [1, 1])
]


def table_of(prompts):
    return TabularLM.random(WORDS, prompts=list(prompts), seed=0, max_new_tokens=2)


def has_x(completion_ids, **kwargs):
    return [1 in y for y in completion_ids]


@pytest.fixture
def wanting():
    table = table_of("ab")
    moments = po.Moments({"has x": (has_x, 0.7)}, method="draws", num_samples=200)
    return po.Target(table, moments, table.prompts, 2)


def text_of(page) -> str:
    return unescape(page.read_text())


def test_a_report_has_the_wanted_means(wanting, tmp_path):
    report = po.evaluate(wanting, wanting.prior, 200)
    (mean,) = report.means
    assert (mean.name, mean.wanted) == ("has x", 0.7)
    fitted = wanting.evidence[0].fitted.lambda_["has x"]
    assert (mean.lambda_.value, mean.lambda_.standard_error) == (
        fitted.value,
        fitted.standard_error,
    )
    assert mean.attained.value == pytest.approx(report["mean_reward"].value)
    page = text_of(po.report(prior=report, path=tmp_path / "r.html"))
    assert "Mean of 'has x' (0.7 wanted, lambda" in page
    assert po.evaluate(po.Target(wanting.prior, [], ["a"], 2), wanting.prior, 50).means == ()


def test_so_has_a_run_with_its_report(wanting, tmp_path):
    settings = {"steps": 2, "num_samples": 4, "learning_rate": 0.1}
    po.fit(wanting, "rloo", output_dir=tmp_path / "run", report=True, **settings)
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())["moments"]["has x"]
    assert told["wanted"] == 0.7
    assert set(told["attained"]) == {"prior", "rloo"}
    assert "Mean of 'has x' (0.7 wanted" in text_of(tmp_path / "run" / "report.html")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """dpo on pairs, and no evidence: the target is the prior."""
    table, run = table_of(PROMPTS), tmp_path_factory.mktemp("dpo") / "run"
    target = po.Target(table, [], table.prompts, 2)
    fit = po.fit(
        target,
        "dpo",
        objective_settings={"pairs": PAIRS, "held_out": 0.34},
        output_dir=run,
        report=True,
        steps=40,
        num_samples=4,
        learning_rate=0.2,
    )
    return target, fit, run


def test_a_policy_of_pairs_is_judged_by_those_and_not_by_its_distance_to_the_prior(
    trained, tmp_path
):
    target, fit, run = trained
    report = po.evaluate(target, fit.policy, 300).with_pairs(fit.pairs)
    assert report["kl_to_prior"].value > 0.1
    names = {finding.name for finding in report.findings}
    assert "no_evidence" in names
    assert not names & {"over_optimised", "not_converged", "past_the_target"}
    for page in (
        text_of(po.report(dpo=report, path=tmp_path / "r.html")),
        text_of(run / "report.html"),
    ):
        assert "Held-out pairs ordered as labelled" in page
        assert "Loss of held-out pairs" in page
        assert "KL to the target" not in page
        assert "KL to the prior" in page
    told = json.loads((run / "evaluation.json").read_text())
    assert told["against_target"] is False
    assert told["pairs"]["held_out"] is True
    assert told["pairs"]["policies"]["prior"]["accuracy"]["value"] == 0.5
    mine = told["pairs"]["policies"]["dpo"]["accuracy"]["value"]
    assert mine == fit.pairs.accuracy.value


def test_the_same_policy_is_over_optimised_against_evidence_that_says_nothing_of_it(trained):
    """With evidence the distance counts again."""
    target, fit, _ = trained

    def ends(completion_ids, **kwargs):
        return [0.3 * (y[-1] == 0) for y in completion_ids]

    other = po.Target(target.prior, po.Reward(ends, beta=1.0), target.prompts, 2)
    report = po.evaluate(other, fit.policy, 300)
    assert report.against_target
    assert "over_optimised" in {finding.name for finding in report.findings}
    assert po.evaluate(other, fit.policy, 50).with_pairs(None).pairs is None
