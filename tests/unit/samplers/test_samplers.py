"""What every sampler must do, and that the weights are what they say, by enumeration."""

from __future__ import annotations

import pytest
import torch
from helpers import WORDS, has_c, reward

import posteriori as po
from posteriori.errors import ConfigError, SamplingStopped
from posteriori.samplers.base import Sampler


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)


def test_importance_is_properly_weighted(target):
    """sum_y q(y) w(y) 1(y) = p~(y) for a proposal that is not the prior."""
    proposal = po.TabularLM.random(WORDS[:4], 3, target.prompts, seed=2)
    exact = po.exact(target)
    drawn = po.sample(target, "importance", 400, proposal, seed=1)
    log_q = exact.log_prob(proposal)
    for at, outcomes in enumerate(exact.outcomes):
        known = {tuple(ids): row for row, ids in enumerate(outcomes.completion_ids)}
        log_target = exact.log_prior[at] + exact.log_evidence[at]
        for row in (drawn.completions.prompt_index_N == at).nonzero()[:, 0].tolist():
            place = known[tuple(drawn.completion_ids[row])]
            weighted = log_q[at][place] + drawn.log_weight[row]
            torch.testing.assert_close(weighted, log_target[place], rtol=0, atol=1e-12)


def test_log_z_is_there_for_every_prompt(target):
    drawn = po.sample(target, "importance", 2000, seed=3)
    exact = po.exact(target)
    for estimate, truth in zip(drawn.log_z.per_prompt, exact.log_z, strict=True):
        assert estimate.kind == "lower_bound"
        # 5.5 standard errors of a normal: a false alarm in 2.6e7.
        assert abs(estimate.value - truth) < 5.5 * estimate.standard_error


def test_draws_come_prompt_by_prompt_whatever_the_rounds(target):
    drawn = po.sample(target, "importance", 600, seed=0)
    assert drawn.prompts == [p for p in target.prompts for _ in range(600)]
    assert drawn.guarantee == "properly_weighted"
    assert drawn.cost.evidence_calls == 1200


def test_a_seed_gives_the_same_draws(target):
    first, second, third = (po.sample(target, "importance", 50, seed=s) for s in (1, 1, 2))
    assert first.completion_ids == second.completion_ids
    assert torch.equal(first.log_weight, second.log_weight)
    assert first.completion_ids != third.completion_ids


def test_resampled_draws_weigh_the_same_and_follow_the_weights(target):
    drawn = po.sample(target, "importance", 200, seed=0)
    again = drawn.resample(1000, seed=1)
    assert again.prompts == [p for p in target.prompts for _ in range(1000)]
    assert not bool(again.log_weight.any())
    for at in range(2):
        rows = drawn.completions.prompt_index_N == at
        share = drawn.log_weight[rows].softmax(0)
        ids = [
            tuple(y) for y, mine in zip(drawn.completion_ids, rows.tolist(), strict=True) if mine
        ]
        mine = again.completion_ids[1000 * at : 1000 * (at + 1)]
        counts = dict.fromkeys(ids, 0)
        for y in mine:
            counts[tuple(y)] += 1
        for y in counts:
            expected = 1000 * float(
                sum(s for s, other in zip(share, ids, strict=True) if other == y)
            )
            assert abs(counts[y] - expected) <= ids.count(y), "systematic: floor or ceil of each"


def test_nothing_with_weight_is_said(table):
    target = po.Target(
        table, po.Constraint(lambda completions, **kw: [False] * len(completions)), table.prompts, 3
    )
    drawn = po.sample(target, "importance", 20)
    assert [finding.name for finding in drawn.findings] == ["evidence_never_satisfied"]
    with pytest.raises(ConfigError, match="nothing to resample"):
        drawn.resample(5)


def test_heavy_weights_are_a_finding(table):
    target = po.Target(table, po.Reward(reward, beta=0.02), table.prompts, 3)
    names = [finding.name for finding in po.sample(target, "importance", 2000).findings]
    assert names in (["weights_not_trusted"], ["few_effective_draws"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_stops_keeps_its_finished_draws(table, error):
    calls = []

    def failing(completion_ids, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error("enough")
        return reward(completion_ids)

    target = po.Target(table, po.Reward(failing, beta=1.0), table.prompts, 3)
    with pytest.raises(SamplingStopped, match="'importance' stopped after 1024 draws") as caught:
        po.sample(target, "importance", 1000)
    assert len(caught.value.draws) == 2 * 512
    assert caught.value.draws.prompts == [p for p in table.prompts for _ in range(512)]


def test_progress_is_told(target):
    told = []
    po.sample(target, "importance", 600, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert {(256, 600), (512, 600), (600, 600)} <= set(told)
    assert len(set(told)) > 3, "and within a round"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("importence", {}, "unknown sampler 'importence'; did you mean 'importance'"),
        ("importance", {"rounds": 3}, "unknown key 'rounds'"),
    ],
)
def test_wrong_names_and_settings(target, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        po.sample(target, name, **settings)
    with pytest.raises(ConfigError, match="num_samples=0"):
        po.sample(target, num_samples=0)


def test_a_sampler_may_be_an_object(target):
    class Twice(Sampler):
        name, guarantee = "twice", "heuristic"

        def run(self, job):
            return po.sample(job.target, "importance", job.num_samples, job.proposal, job.seed)

    drawn = po.sample(target, Twice(), 10)
    assert drawn.guarantee == "heuristic"
    with pytest.raises(ConfigError, match="settings go with the sampler's name"):
        po.sample(target, Twice(), 10, more=1)


def test_hard_evidence_has_weight_zero(table):
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    drawn = po.sample(target, "importance", 500)
    satisfied = torch.tensor([3 in y for y in drawn.completion_ids])
    assert torch.equal(drawn.log_weight.isfinite(), satisfied)
    assert all(3 in y for y in drawn.resample(50).completion_ids)


def test_a_prompt_that_is_there_twice_has_its_own_draws(table):
    target = po.Target(table, po.Reward(reward, beta=0.5), ["x", "y", "x"], 3)
    drawn = po.sample(target, "importance", 300, seed=0)
    assert drawn.prompts == ["x"] * 300 + ["y"] * 300 + ["x"] * 300
    assert len(drawn.log_z.per_prompt) == 3
    assert drawn.completion_ids[:300] != drawn.completion_ids[600:]
