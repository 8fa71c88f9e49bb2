"""`rejection` and `qrs`: acceptance laws by enumeration, the estimator of their rate over every way
the trials can fall, and what happens where a bound or a budget ends."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import WORDS, has_c, reward

import posteriori as po
from posteriori.errors import ConfigError, SamplingError, SamplingStopped
from posteriori.samplers.base import Job
from posteriori.samplers.independent import acceptance_stream
from posteriori.samplers.independent.acceptance_stream import accepted_draws
from posteriori.samplers.independent.qrs_curve import curve_at, threshold_for
from posteriori.samplers.independent.rejection import log_accept

BETA = 0.5
LARGEST = 3.0
"""The reward of three "b" and no end."""


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(reward, BETA, max_reward=LARGEST), table.prompts, 3)


@pytest.fixture
def other(target) -> po.TabularLM:
    """A proposal that is not the prior."""
    return po.TabularLM.random(WORDS[:4], 3, target.prompts, seed=2)


def every_outcome(target: po.Target, at: int, proposal=None, log_proposal=None) -> po.Draws:
    """All outcomes of a prompt, once each, as if the proposal had drawn them."""
    exact = po.exact(target)
    if log_proposal is None:
        log_proposal = exact.log_prob(proposal or target.prior)[at]
    return po.Draws(
        exact.outcomes[at],
        log_proposal,
        exact.log_prior[at],
        exact.log_evidence[at],
        exact.reward[at],
    )


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("from_prior", [True, False])
def test_what_rejection_accepts_is_the_target(target, other, at, from_prior):
    """sum over the tree of one trial: q(y) P(accept y) = p~(y) / M, and the rate is Z / M."""
    outcomes = every_outcome(target, at, None if from_prior else other)
    log_m = target.max_log_evidence if from_prior else float(outcomes.log_weight.max())
    log_joint = outcomes.log_proposal_N + log_accept(outcomes, log_m)
    exact = po.exact(target)
    log_target = exact.log_prior[at] + exact.log_evidence[at] - log_m
    torch.testing.assert_close(log_joint.exp(), log_target.exp(), rtol=0, atol=1e-12)
    assert float(log_joint.exp().sum()) == pytest.approx(math.exp(exact.log_z[at] - log_m))


@pytest.mark.parametrize("mutant", ["clipped", "evidence alone", "half of beta"])
def test_wrong_acceptance_is_seen_by_the_enumeration(target, other, mutant):
    outcomes = every_outcome(target, 0, other)
    log_m = float(outcomes.log_weight.max())
    log_ratio = {
        "clipped": (outcomes.log_weight - (log_m - 1)).clamp(max=0.0),
        "evidence alone": outcomes.log_evidence_N - target.max_log_evidence,
        "half of beta": outcomes.log_weight + outcomes.log_evidence_N - log_m - 6,
    }[mutant]
    law = (outcomes.log_proposal_N + log_ratio).softmax(0)
    assert float((law - po.exact(target).log_posterior[0].exp()).abs().max()) > 1e-3


@pytest.mark.parametrize("log_b", [-3.0, 0.0, 1.5, 8.0])
@pytest.mark.parametrize("at", [0, 1])
def test_the_law_of_qrs_and_its_distances(at, log_b):
    """On a table whose probabilities are multiples of 1/64, a pool can hold every outcome as often
    as it is drawn: its means are expectations, and what it says of p_b is exact."""
    log_half, log_quarter = math.log(0.5), math.log(0.25)
    logits = torch.tensor(
        [[log_half, log_quarter, log_quarter], [log_quarter, log_half, log_quarter]],
        dtype=torch.float64,
    )
    table = po.TabularLM(logits[torch.tensor([[0, 1, 0], [1, 1, 0]])], ("x", "y"), WORDS[:3])
    target = po.Target(table, po.Reward(reward, BETA), table.prompts, 2)
    exact = po.exact(target)
    q, w = exact.log_prior[at].exp(), exact.log_evidence[at].exp()
    times = (64 * q).round().long()
    assert torch.allclose(times.double() / 64, q)
    rows = torch.arange(len(q)).repeat_interleave(times)
    point = curve_at(every_outcome(target, at).select(rows), torch.tensor([log_b]), "unbiased")

    accepted = (w / math.exp(log_b)).clamp(max=1.0)
    p_b = q * accepted / (q * accepted).sum()
    p_star = exact.log_posterior[at].exp()
    assert point.acceptance.value == pytest.approx(float((q * accepted).sum()), rel=1e-12)
    assert point.tv.value == pytest.approx(0.5 * float((p_b - p_star).abs().sum()), abs=1e-12)
    assert point.kl.value == pytest.approx(float((p_star * (p_star / p_b).log()).sum()), abs=1e-12)
    beyond = [finding.name for finding in point.tv.per_prompt[0].findings]
    assert beyond == (["no_weight_above_threshold"] if log_b == 8.0 else [])


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.4, 0.79])
def test_the_threshold_for_a_rate_gives_that_rate(rate):
    """A pool of 100 with 20 zeros and ties."""
    log_w = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    log_w = torch.cat([log_w, log_w[:20], torch.full((20,), -math.inf)])
    log_b = threshold_for(log_w, rate)
    assert float((log_w - log_b).clamp(max=0).exp().mean()) == pytest.approx(rate, rel=1e-12)
    assert threshold_for(log_w, 0.9) == float(log_w[:60].min()), (
        "no threshold accepts more than 0.8"
    )


class Trials:
    """`accepted_draws` with the outcome of every trial decided beforehand: [prompts, trials]."""

    def __init__(self, target: po.Target, num_samples: int, falls: torch.Tensor) -> None:
        self.job = Job(target, target.prior, num_samples, seed=0)
        self.falls, self.done = falls, torch.zeros(len(falls), dtype=torch.long)
        self.drawn: dict[int, list[list[int]]] = {at: [] for at in range(len(falls))}

    def log_accept(self, draws: po.Draws) -> torch.Tensor:
        at_N = self.job.target.prompt_positions(draws.completions)
        log_accept_N = torch.zeros(len(draws), dtype=torch.float64)
        for row, at in enumerate(at_N.tolist()):
            if not self.falls[at, self.done[at]]:
                log_accept_N[row] = -math.inf
            self.done[at] += 1
            self.drawn[at].append(draws.completion_ids[row])
        return log_accept_N

    def run(self) -> acceptance_stream.Accepted:
        return accepted_draws(self.job, "trials", self.log_accept, self.falls.shape[1])


@pytest.mark.parametrize("wanted", [1, 2, 3])
@pytest.mark.parametrize("most", [2, 3, 256], ids=lambda most: f"rounds of {most}")
def test_the_rate_is_unbiased_and_the_first_accepted_are_kept(target, monkeypatch, wanted, most):
    """Every way in which 7 trials can fall, weighted with its probability: E p-hat = p to 1e-12,
    stopping rule, rounds and budget included. The plain ratio is off by percents."""
    monkeypatch.setattr(acceptance_stream, "_LEAST", 2)
    monkeypatch.setattr(acceptance_stream, "_MOST", most)
    budget, p = 7, 0.3
    mean = plain = total = 0.0
    for falls in itertools.product([False, True], repeat=budget):
        trials = Trials(target, wanted, torch.tensor([falls, falls[::-1]]))
        out = trials.run()
        for at, mine in enumerate((falls, falls[::-1])):
            hits = [trial for trial, yes in enumerate(mine) if yes]
            kept = [
                y
                for y, i in zip(out.draws.completion_ids, rows_of(out.draws), strict=True)
                if i == at
            ]
            assert kept == [trials.drawn[at][trial] for trial in hits[:wanted]]
            enough = max(2, wanted)
            assert int(out.accepted_P[at]) == min(len(hits), enough)
            assert int(out.tried_P[at]) == (hits[enough - 1] + 1 if len(hits) >= enough else budget)
            probability = p ** len(hits) * (1 - p) ** (budget - len(hits))
            total += probability
            mean += probability * math.exp(out.log_rate(at)[0])
            plain += probability * int(out.accepted_P[at]) / int(out.tried_P[at])
        assert not bool(out.draws.log_weight.any())
        short = [len(mine) for mine in (falls,) if sum(mine) < wanted]
        assert [finding.name for finding in out.findings] == ["budget_ended"] * len(short)
    assert total == pytest.approx(2.0)
    assert mean / 2 == pytest.approx(p, abs=1e-12)
    assert abs(plain / 2 - p) > 0.01, "the plain ratio is a mutant that this must find"


def rows_of(draws: po.Draws) -> list[int]:
    return draws.completions.prompt_index_N.tolist()


def test_the_standard_error_is_never_zero(target):
    out = Trials(target, 5, torch.ones(2, 7, dtype=torch.bool)).run()
    value, error = out.log_rate(0)
    assert value == 0.0
    assert 0 < error < 0.5


@pytest.mark.parametrize(
    ("evidence", "bound"),
    [
        ([], 0.0),
        ([po.Constraint(has_c)], 0.0),
        ([po.Likelihood(lambda **kw: []), po.Constraint(has_c)], 0.0),
        ([po.Reward(reward, 0.5, max_reward=2)], 4.0),
        ([po.Reward(reward, 0.5, max_reward=2), po.Reward(reward, 2.0, max_reward=-1.0)], 3.5),
        ([po.Reward(reward, 0.5)], None),
        ([po.Reward(reward, 0.5), po.Constraint(has_c)], None),
    ],
)
def test_the_bound_on_the_evidence_is_the_sum_of_its_parts(table, evidence, bound):
    target = po.Target(table, evidence, table.prompts, 3)
    assert target.max_log_evidence == bound
    assert target.tempered(0.0).max_log_evidence == 0.0
    assert target.tempered(0.5).max_log_evidence == (None if bound is None else bound / 2)


@pytest.mark.parametrize("largest", [math.inf, math.nan])
def test_a_largest_reward_is_a_number(largest):
    with pytest.raises(ConfigError, match=r"max_reward=.* must be a finite number"):
        po.Reward(reward, 0.5, max_reward=largest)


def test_a_broken_bound_stops_and_says_by_how_much(table):
    """Also where draws have been accepted before: they do not follow the target."""
    target = po.Target(table, po.Reward(reward, BETA, max_reward=1.0), table.prompts, 3)
    with pytest.raises(SamplingError, match="log-weight 6, 4 nats above the bound of 2 ") as it:
        po.sample(target, "rejection", 2000, seed=3)
    assert not isinstance(it.value, SamplingStopped)
    with pytest.raises(SamplingError, match="above the bound of 1"):
        po.sample(target, "rejection", 2000, max_log_weight=1.0)


def test_a_bound_must_be_known(table, other, target):
    unknown = po.Target(table, po.Reward(reward, BETA), table.prompts, 3)
    with pytest.raises(ConfigError, match=r"Reward\(fn, beta, max_reward=...\)"):
        po.sample(unknown, "rejection", 10)
    with pytest.raises(ConfigError, match="prior x evidence / proposal"):
        po.sample(target, "rejection", 10, other)
    for wrong in ({"max_draws": 0}, {"max_log_weight": math.inf}, {"bound": 1}):
        with pytest.raises(ConfigError):
            po.sample(target, "rejection", 10, **wrong)


def test_another_proposal_takes_a_bound_of_its_own(target, other):
    log_m = max(float(every_outcome(target, at, other).log_weight.max()) for at in range(2))
    drawn = po.sample(target, "rejection", 10, other, max_log_weight=log_m)
    assert drawn.guarantee == "exact"
    assert drawn.prompts == [p for p in target.prompts for _ in range(10)]


def test_a_run_of_rejection_is_whole(target):
    told = []
    drawn = po.sample(target, "rejection", 300, seed=1, on_progress=lambda *a: told.append(a))
    assert drawn.prompts == [p for p in target.prompts for _ in range(300)]
    assert drawn.guarantee == "exact"
    assert drawn.findings == ()
    assert not bool(drawn.log_weight.any())
    assert told[-1] == (600, 600)
    assert drawn.log_z.kind == "lower_bound"
    # Every draw that was made is in the cost: at least those that the estimate rests on.
    assert drawn.cost.evidence_calls >= drawn.log_z.num_draws > 600
    again = po.sample(target, "rejection", 300, seed=1)
    assert again.completion_ids == drawn.completion_ids
    assert again.log_z == drawn.log_z


def test_the_cost_is_every_draw_that_was_made(table):
    calls = []

    def counted(completion_ids, **kwargs):
        calls.append(len(completion_ids))
        return has_c(completion_ids)

    target = po.Target(table, po.Constraint(counted), table.prompts, 3)
    for name, more in (("rejection", {}), ("qrs", {"pool": 100}), ("qrs", {"log_threshold": 0.0})):
        calls.clear()
        assert po.sample(target, name, 70, **more).cost.evidence_calls == sum(calls)


def test_a_budget_that_ends_says_so_and_returns_what_there_is(table):
    rare = po.Target(table, po.Reward(reward, BETA, max_reward=20.0), table.prompts, 3)
    drawn = po.sample(rare, "rejection", 5, max_draws=100)
    assert len(drawn) == 0
    assert [(f.level, f.name) for f in drawn.findings] == [("stop", "budget_ended")]
    assert [e.value for e in drawn.log_z.per_prompt] == [-math.inf] * 2
    assert drawn.cost.evidence_calls == 200
    some = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    drawn = po.sample(some, "rejection", 500, max_draws=600)
    assert 0 < len(drawn) < 1000
    assert [(f.level, f.name) for f in drawn.findings] == [("warn", "budget_ended")]
    assert "2 of 2 prompts have fewer than the 500 draws asked for" in drawn.findings[0].message


def test_an_impossible_constraint_is_said(table):
    never = po.Constraint(lambda completions, **kw: [False] * len(completions))
    target = po.Target(table, never, table.prompts, 3)
    assert po.sample(target, "rejection", 5, max_draws=50).findings[0].level == "stop"
    with pytest.raises(SamplingError, match="none of the 1024 pool draws for 'x' has any weight"):
        po.sample(target, "qrs", 5)
    drawn = po.sample(target, "qrs", 5, log_threshold=0.0, max_draws=50)
    assert {"budget_ended", "evidence_never_satisfied"} <= {f.name for f in drawn.findings}


@pytest.mark.parametrize("name", ["rejection", "qrs"])
def test_an_interrupted_stream_keeps_what_was_accepted(table, name):
    calls = []

    def failing(completion_ids, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return reward(completion_ids)

    target = po.Target(table, po.Reward(failing, 1.0, max_reward=LARGEST), table.prompts, 3)
    with pytest.raises(SamplingStopped) as caught:
        po.sample(target, name, 5000)
    kept = caught.value.draws
    assert 0 < len(kept) < 2 * 3 * 256
    assert not bool(kept.log_weight.any())
    assert kept.cost.evidence_calls >= 2 * 2 * 256


def test_a_run_of_qrs_is_whole(target, other):
    drawn = po.sample(target, "qrs", 200, other, seed=1, acceptance=0.3)
    assert drawn.prompts == [p for p in target.prompts for _ in range(200)]
    assert drawn.guarantee == "heuristic"
    # Of 1024 draws of this proposal some twenty are effective: log_z rests on those.
    assert [f.name for f in drawn.findings] == ["qrs_quality", "log_z_not_trusted"]
    assert "0.3 ± " in drawn.findings[0].message
    assert not bool(drawn.log_weight.any())
    exact = po.exact(target)
    for estimate, truth in zip(drawn.log_z.per_prompt, exact.log_z, strict=True):
        assert (estimate.kind, estimate.num_draws) == ("lower_bound", 1024)
        # 5.5 standard errors of a normal: a false alarm in 2.6e7.
        assert abs(estimate.value - truth) < 5.5 * estimate.standard_error
    again = po.sample(target, "qrs", 200, other, seed=1, acceptance=0.3)
    assert again.completion_ids == drawn.completion_ids


def test_qrs_says_what_it_cannot(target, table):
    with pytest.raises(ConfigError, match="two ways to say the same"):
        po.sample(target, "qrs", 5, acceptance=0.5, log_threshold=1.0)
    unbounded = po.Target(table, po.Reward(reward, BETA), table.prompts, 3)
    names = [f.name for f in po.sample(unbounded, "qrs", 5, log_threshold=7.0).findings]
    assert names == ["qrs_quality", "no_weight_above_threshold"]
    # The evidence's own bound makes certain what a pool cannot.
    names = [f.name for f in po.sample(target, "qrs", 5, log_threshold=7.0).findings]
    assert names == ["qrs_quality"]
    some = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    names = [f.name for f in po.sample(some, "qrs", 5, acceptance=0.9).findings]
    assert names == ["qrs_quality", "acceptance_out_of_reach"]


def test_qrs_does_not_throw_away_what_the_evidence_vouches_for(table):
    """A wanted rate below that of exact rejection: b stays at the bound, 1."""
    some = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    share = math.exp(po.exact(some).log_z.min())
    drawn = po.sample(some, "qrs", 200, acceptance=share / 4)
    # At a quarter of the rate it would take four times as many.
    assert drawn.cost.evidence_calls < 2 * 1024 + 2 * (2 * 200 / share)


def test_the_curve_of_qrs(target):
    pool = po.sample(target, "importance", 4000, seed=0)
    curve = po.qrs_curve(pool)
    rates = [point.acceptance.value for point in curve]
    assert rates == pytest.approx([0.5**k for k in range(10)], rel=1e-9)
    for figure in ("tv", "kl"):
        values = [getattr(point, figure).value for point in curve]
        assert values == sorted(values, reverse=True)
        assert values[0] > 0.1
    given = po.qrs_curve(pool, [1.0, 2.0])
    assert [point.log_threshold for point in given] == [(1.0, 1.0), (2.0, 2.0)]
    assert given[0].acceptance.kind == "unbiased"
    assert given[0].kl.kind == curve[0].tv.kind == "consistent"
    with pytest.raises(ConfigError, match="without smooth"):
        po.qrs_curve(po.sample(target, "rejection", 10))
