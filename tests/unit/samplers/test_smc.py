"""SMC as users meet it: settings, cost, groups, interruption, twists that are saved and loaded."""

from __future__ import annotations

import pytest
import torch
from helpers import PROMPTS, WORDS, has_c, reward, tiny_lm

import posteriori as po
from posteriori.errors import ConfigError, ModelError, SamplingError, SamplingStopped
from posteriori.samplers.smc import smc
from posteriori.samplers.smc.conditional import conditional_log_z
from posteriori.samplers.smc.fit_twist import fit_twist
from posteriori.samplers.smc.twist_head import TwistHead
from posteriori.testing.cases import WORDS as THREE

TWISTS = ["none", "evidence", {"name": "rollouts", "num": 2}]


@pytest.fixture(params=["table", "gpt2"])
def target(request, table) -> po.Target:
    lm = table if request.param == "table" else tiny_lm()
    prompts = table.prompts if request.param == "table" else PROMPTS
    return po.Target(lm, po.Reward(reward, beta=0.5), prompts, 3)


@pytest.mark.parametrize("twist", TWISTS, ids=str)
def test_draws_say_what_the_target_says(target, twist):
    drawn = po.sample(target, "smc", 50, seed=1, twist=twist)
    assert drawn.prompts == [p for p in target.prompts for _ in range(50)]
    assert drawn.guarantee == "properly_weighted"
    told = target.log_density(drawn.completions)
    for mine, theirs in (
        (drawn.log_prior_N, told.prior),
        (drawn.log_evidence_N, told.evidence),
        (drawn.reward_N, told.reward),
        (drawn.log_proposal_N, told.prior),
        (drawn.token_log_prior_NL.sum(-1), told.prior),
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_log_z_is_the_mean_weight_and_groups_are_populations(target):
    drawn = po.sample(target, "smc", 50, seed=1, twist="evidence")
    num = len(target.prompts)
    assert drawn.group_N.unique().tolist() == list(range(4 * num))
    assert sorted(drawn.group_N.bincount().tolist()) == [12] * 2 * num + [13] * 2 * num
    for at, estimate in enumerate(drawn.log_z.per_prompt):
        log_w_n = drawn.log_weight[50 * at : 50 * (at + 1)]
        mean = float(log_w_n.exp().mean().log())
        assert estimate.value == pytest.approx(mean, abs=1e-9)
        assert estimate.kind == "lower_bound"
        assert estimate.standard_error < float("inf")


def test_a_seed_gives_the_same_draws(target):
    runs = [po.sample(target, "smc", 20, seed=s, twist="evidence") for s in (1, 1, 2)]
    assert runs[0].completion_ids == runs[1].completion_ids
    assert torch.equal(runs[0].log_weight, runs[1].log_weight)
    assert runs[0].completion_ids != runs[2].completion_ids


def test_the_cost_counts_every_token_and_every_call(target):
    drawn = po.sample(target, "smc", 30, seed=1, ess_threshold=0.0)
    own = int(drawn.completions.lengths_N.sum())
    prompts = sum(len(ids) for ids in drawn.completions.prompt_ids)
    assert drawn.cost.lm_tokens == own + prompts
    assert drawn.cost.evidence_calls == len(drawn)
    calls = []

    def counted(completion_ids, **kwargs):
        calls.append(len(completion_ids))
        return reward(completion_ids)

    counting = po.Target(target.prior, po.Reward(counted, 0.5), target.prompts, 3)
    assert po.sample(counting, "smc", 30, twist="evidence").cost.evidence_calls == sum(calls)
    twice = po.sample(target, "smc", 30, _other(target), seed=1, ess_threshold=0.0)
    own = int(twice.completions.lengths_N.sum())
    assert twice.cost.lm_tokens == 2 * (own + prompts)


def _other(target: po.Target):
    if isinstance(target.prior, po.TabularLM):
        return po.TabularLM.random(WORDS[:4], 3, target.prompts, seed=9)
    return tiny_lm(seed=4)


def test_parts_are_kept_when_a_run_stops(table, monkeypatch):
    monkeypatch.setattr(smc, "_ROWS", 10)
    calls = []

    def failing(completion_ids, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return reward(completion_ids)

    target = po.Target(table, po.Reward(failing, beta=0.5), table.prompts, 3)
    with pytest.raises(SamplingStopped) as caught:
        po.sample(target, "smc", 20, replicates=4)
    kept = caught.value.draws
    assert len(kept) % 10 == 0
    assert 0 < len(kept) < 40
    kept.completions.check_outcomes(3)


def test_parts_and_progress(table, monkeypatch):
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    monkeypatch.setattr(smc, "_ROWS", 10)
    told = []
    drawn = po.sample(
        target, "smc", 20, replicates=4, on_progress=lambda done, total: told.append((done, total))
    )
    assert told == sorted(told)
    assert told[-1] == (12, 12)
    assert drawn.prompts == [p for p in table.prompts for _ in range(20)]
    assert drawn.group_N.tolist() == [g for g in range(8) for _ in range(5)]


def test_prefixes_that_cannot_come_right_are_left(gpt2):
    """ "has a c, at its very beginning": without pruning most particles never satisfy it."""

    def first(completion_ids, **kwargs):
        return [ids[0] == 3 for ids in completion_ids]

    target = po.Target(gpt2, po.Constraint(first, prefix=first), PROMPTS, 4)
    pruned = po.sample(target, "smc", 200, twist="prefix", seed=1)
    plain = po.sample(target, "smc", 200, twist="none", seed=1)
    shares = [float(d.log_weight.isfinite().double().mean()) for d in (pruned, plain)]
    assert shares[0] > 0.99 > 0.5 > shares[1]
    bare = po.Target(gpt2, po.Constraint(first), PROMPTS, 4)
    with pytest.raises(ConfigError, match="needs evidence that can judge a prefix"):
        po.sample(bare, "smc", 20, twist="prefix")


def test_a_population_that_dies_has_weight_zero(table):
    never = po.Constraint(lambda completions, **kw: [False] * len(completions))
    drawn = po.sample(po.Target(table, never, table.prompts, 3), "smc", 20)
    assert bool(drawn.log_weight.isneginf().all())
    assert drawn.log_z.value == -torch.inf
    assert [finding.name for finding in drawn.findings] == ["evidence_never_satisfied"]
    drawn.completions.check_outcomes(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"twist": "evidense"}, "unknown twist 'evidense'; did you mean 'evidence'"),
        ({"twist": {"name": "evidence", "heat": 1.0}}, "unknown key 'heat'"),
        ({"twist": "none.safetensors"}, "no twist at"),
        ({"resampling": "residual"}, "resampling"),
        ({"ess_threshold": 1.5}, "ess_threshold"),
        ({"replicates": 30}, "replicates=30"),
        ({"floor": 1}, "unknown key 'floor'"),
    ],
    ids=str,
)
def test_wrong_settings(table, settings, message):
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    with pytest.raises((ConfigError, ModelError), match=message):
        po.sample(target, "smc", 20, **settings)


def test_other_tokens_are_refused(table):
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    with pytest.raises(ModelError, match="do not share their outcomes"):
        po.sample(target, "smc", 20, po.TabularLM.random(THREE, 3, table.prompts))


def test_a_twist_that_is_no_number_is_refused(table):
    head = TwistHead(2 * 13, 4)
    with torch.no_grad():
        head.of_state.bias.fill_(torch.nan)
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    with pytest.raises(SamplingError, match="twist 'learned' is NaN"):
        po.sample(target, "smc", 20, twist=head)
    with pytest.raises(ModelError, match="prior that it was trained on"):
        po.sample(target, "smc", 20, twist=TwistHead(5, 4))


def test_a_learned_twist_is_the_expected_evidence(table):
    """log psi(y_1) tends to log E_prior[e | y_1]: ten times nearer to it than psi = 1, and in its
    scale, which only what has ended ties down, five times."""
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    fit = fit_twist(target, steps=8, num_samples=512, width=8, replay=4, updates=12, seed=0)
    assert len(fit.history) == 8
    assert fit.cost.lm_tokens > 8 * 512
    exact = po.exact(target)
    parent = torch.tensor([0, 0, 0, 1, 1, 1])
    with table.stepping(table.prompts, parent, 3, hidden=True) as rows, torch.no_grad():
        feature_RE = rows.token_features_VD[torch.tensor([1, 2, 3, 1, 2, 3])]
        learned = fit.twist(rows.hidden_RD, feature_RE, 2 / 3)
    best = []
    for at in (0, 1):
        weight = exact.log_prior[at].exp()
        for token in (1, 2, 3):
            begins = torch.tensor([ids[0] == token for ids in exact.outcomes[at].completion_ids])
            e = exact.log_evidence[at].exp()
            best.append(float(((weight * e)[begins].sum() / weight[begins].sum()).log()))
    best = torch.tensor(best, dtype=torch.float64).view(2, 3)
    off = learned.view(2, 3) - best

    def spread(x: torch.Tensor) -> float:
        return float((x - x.mean(1, keepdim=True)).norm())

    assert spread(off) < 0.1 * spread(best)
    assert float(off.mean().abs()) < 0.2 * float(best.mean())


def test_particles_are_not_resampled_under_a_twist_that_steers_unless_asked(table):
    """Other twists resample below one half, and so does the same one where it does not steer."""
    target = po.Target(table, po.Reward(reward, beta=0.2), table.prompts, 3)
    head = fit_twist(target, steps=1, num_samples=32, seed=0).twist

    def log_weight(**settings) -> torch.Tensor:
        return po.sample(target, "smc", 200, seed=3, **settings).log_weight

    for settings, threshold in (
        ({"twist": head}, 0.0),
        ({"twist": head, "guidance": 0.0}, 0.5),
        ({"twist": "evidence"}, 0.5),
    ):
        as_it_is = log_weight(**settings)
        assert torch.equal(as_it_is, log_weight(**settings, ess_threshold=threshold))
        assert not torch.equal(as_it_is, log_weight(**settings, ess_threshold=0.5 - threshold))


def test_training_is_reproducible_and_saved(gpt2, tmp_path):
    target = po.Target(gpt2, po.Reward(reward, beta=0.5), PROMPTS, 3)
    twists = [fit_twist(target, steps=3, num_samples=16, seed=s).twist for s in (1, 1, 2)]
    drawn = [po.sample(target, "smc", 40, twist=twist).log_weight for twist in twists]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    twists[0].save(tmp_path / "twist.safetensors")
    again = po.sample(target, "smc", 40, twist=str(tmp_path / "twist.safetensors"))
    assert torch.equal(again.log_weight, drawn[0])


def test_nothing_to_learn_from_is_said(table):
    never = po.Constraint(lambda completions, **kw: [False] * len(completions))
    with pytest.raises(SamplingError, match="nothing to learn from"):
        fit_twist(po.Target(table, never, table.prompts, 3), steps=1)


def test_an_upper_bound_needs_exact_draws(table):
    target = po.Target(table, po.Constraint(has_c), table.prompts, 3)
    drawn = po.sample(target, "importance", 20)
    with pytest.raises(SamplingError, match="properly_weighted"):
        conditional_log_z(target, drawn)
    good = [at for at, ids in enumerate(drawn.completion_ids) if 3 in ids]
    one = drawn.completions.select([at for at in good if at < 20][:2])
    with pytest.raises(SamplingError, match="has no exact draw"):
        conditional_log_z(target, one)
    estimate = conditional_log_z(target, drawn.completions.select(good), 8)
    assert estimate.kind == "upper_bound"
    assert [each.num_draws for each in estimate.per_prompt] == [
        sum(at < 20 for at in good),
        sum(at >= 20 for at in good),
    ]
