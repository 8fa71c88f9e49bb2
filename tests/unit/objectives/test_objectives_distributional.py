"""DPG and f-DPG: the running Z, the adaptive proposal, the limits under hard evidence, mutants."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import has_c, tiny_lm
from objective_cases import (
    CASES,
    alpha_divergence,
    chi2_from_target,
    exact_z,
    jensen_shannon,
    kl_from_target,
    total_variation,
)

import posteriori as po
from posteriori.core.draw import draw
from posteriori.errors import ConfigError, ObjectiveError
from posteriori.objectives.distributional.dpg import DPG
from posteriori.objectives.distributional.fdpg import FDPG
from posteriori.objectives.running_z import RunningZ
from posteriori.testing.worlds import World

EXACT = 1e-8
CAUGHT = 1e4 * EXACT


def ready(objective, world: World):
    objective.prepare(world.target, lambda: world.policy, seed=0)
    exact_z(objective, world)
    return objective


class HardWorld(World):
    """The same, where evidence rules two outcomes of every prompt out."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        log_e_N = self.outcomes.log_evidence_N.clone()
        log_e_N[0::7] = -math.inf
        log_e_N[3::7] = -math.inf
        self.outcomes = replace(self.outcomes, log_evidence_N=log_e_N)
        log_evidence = log_e_N.split(self.sizes)
        both = zip(self.exact.log_prior, log_evidence, strict=True)
        log_z = [float((log_p + log_e).logsumexp(0)) for log_p, log_e in both]
        self.exact = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
            log_prior=self.exact.log_prior, log_evidence=log_evidence, log_z=log_z
        )


def test_the_running_z_is_unbiased():
    """E[Z-hat] = Z by enumeration, over draws of one distribution and then another's, for evidence
    that rules some of them out."""
    on, off = HardWorld(("x", "y"), 1), HardWorld(("x", "y"), 1, elsewhere=True)
    expected_P = torch.zeros(2, dtype=torch.float64)
    for first, second in itertools.product(on.tuples(), off.tuples()):
        running = RunningZ(on.target)
        probability = 1.0
        for draws in (on.outcomes.select(first), off.outcomes.select(second)):
            running.add(draws)
            probability *= float(draws.log_proposal_N.sum().exp())
        expected_P += probability * running.log_z_P.exp()
    exact_P = torch.tensor(on.exact.log_z, dtype=torch.float64).exp()
    torch.testing.assert_close(expected_P, exact_P, rtol=0, atol=1e-12)


def test_the_running_z_converges_to_the_exact_one():
    """5.5 standard errors, whose size is computed from all outcomes: a false alarm in 2.6e7."""
    world = World(("x", "y"), 1)
    running, steps, num_samples = RunningZ(world.target), 40, 500
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        running.add(draw(world.target, world.policy, num_samples, generator))
    exact_P = torch.as_tensor(world.exact.log_z).exp()
    weight_N, q_N = world.outcomes.log_weight.exp(), world.outcomes.log_proposal_N.exp()
    parts = zip(weight_N.split(world.sizes), q_N.split(world.sizes), exact_P, strict=True)
    for at, (weight, q, exact) in enumerate(parts):
        error = math.sqrt(float((q * (weight - exact).square()).sum()) / (steps * num_samples))
        assert error < 0.02 * float(exact), "fine enough to tell"
        assert abs(float(running.log_z_P[at].exp() - exact)) < 5.5 * error


def test_a_steps_own_draws_have_no_part_in_its_z():
    world = World(("x", "y"), 1)
    running = RunningZ(world.target)
    running.add(world.outcomes)
    before_P = running.log_z_P.clone()
    heavy = replace(world.outcomes, log_evidence_N=world.outcomes.log_evidence_N + 50)
    torch.testing.assert_close(running.before(heavy), before_P[heavy.completions.prompt_index_N])
    torch.testing.assert_close(running.log_z_P, before_P, rtol=0, atol=0)


def test_a_prompts_first_draws_with_weight_share_it_out():
    """Until there are any a prompt says nothing; then the weights sum to the number of draws."""
    world = World(("x", "y"), 1)
    nothing = replace(
        world.outcomes, log_evidence_N=torch.full_like(world.outcomes.log_evidence_N, -math.inf)
    )
    log_pi_N = world.policy.log_prob(world.outcomes.completions).detach() - 0.1
    objective = DPG(proposal="prior", baseline=0.0)
    objective.prepare(world.target, lambda: world.policy, seed=0)
    for draws, total in ((nothing, 0.0), (world.outcomes, 1.0)):
        weight_N = objective.weigh(draws, log_pi_N)["weight_N"]
        means = [float(part.mean()) for part in weight_N.split(world.sizes)]
        assert means == pytest.approx([total, total])
        objective.observe(draws, log_pi_N)


def test_a_step_without_any_weight_leaves_finite_constants_and_a_record():
    world = World(("x", "y"), 1)
    nothing = replace(
        world.outcomes, log_evidence_N=torch.full_like(world.outcomes.log_evidence_N, -math.inf)
    )
    log_pi_N = world.policy.log_prob(world.outcomes.completions).detach()
    known, unknown = ready(DPG(), world), DPG(proposal="prior")
    unknown.prepare(world.target, lambda: world.policy, seed=0)
    ratio_N = (log_pi_N - nothing.log_proposal_N).exp()
    torch.testing.assert_close(known.weigh(nothing, log_pi_N)["weight_N"], -ratio_N)
    assert bool((unknown.weigh(nothing, log_pi_N)["weight_N"] == 0).all())
    figures = unknown.observe(nothing, log_pi_N)
    assert figures["effective_draws"] == 0
    assert figures["prompts_without_weight"] == 2
    assert "log_z" not in figures
    js = FDPG()
    js.prepare(world.target, lambda: world.policy, seed=0)
    assert bool((js.weigh(nothing, log_pi_N)["weight_N"] == 0).all()), "they are all alike"


def test_effective_draws_are_those_of_the_weights():
    world = World(("x", "y"), 1)
    objective = ready(DPG(proposal="prior"), world)
    figures = objective.observe(world.outcomes, world.outcomes.log_proposal_N)
    parts = world.outcomes.log_weight.exp().split(world.sizes)
    expected = sum(float(w.sum() ** 2 / w.square().sum()) for w in parts) / 2
    assert figures["effective_draws"] == pytest.approx(expected)


FINITE = [
    ({"divergence": "forward_kl"}, kl_from_target),
    ({"divergence": "js"}, jensen_shannon),
    ({"divergence": "tv"}, total_variation),
    ({"divergence": "chi2"}, chi2_from_target),
    ({"divergence": "alpha", "alpha": 0.5}, alpha_divergence(0.5)),
    ({"divergence": "alpha", "alpha": 2.5}, alpha_divergence(2.5)),
]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["policy", "elsewhere"])
@pytest.mark.parametrize(("settings", "divergence"), FINITE, ids=[str(s) for s, _ in FINITE])
def test_the_gradient_is_exact_where_evidence_rules_outcomes_out(settings, divergence, elsewhere):
    """The slope's limit at t -> infinity, against autograd's gradient of the divergence itself."""
    world = HardWorld(("x", "y"), 2, elsewhere)
    gradient = world.expected_gradient(ready(FDPG(**settings), world))
    torch.testing.assert_close(gradient, world.gradient_of(divergence), rtol=0, atol=EXACT)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["policy", "elsewhere"])
@pytest.mark.parametrize("baseline", [0.0, 1.0, 1.7])
def test_dpgs_gradient_is_exact_where_evidence_rules_outcomes_out(baseline, elsewhere):
    world = HardWorld(("x", "y"), 2, elsewhere)
    gradient = world.expected_gradient(ready(DPG(baseline=baseline), world))
    torch.testing.assert_close(gradient, world.gradient_of(kl_from_target), rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": "reverse_kl"},
        {"divergence": "reverse_chi2"},
        {"divergence": "alpha", "alpha": -0.5},
    ],
    ids=str,
)
def test_divergences_that_are_infinite_there_are_refused(settings):
    world = HardWorld(("x", "y"), 2)
    with pytest.raises(ObjectiveError, match="which is infinite: the evidence rules out"):
        ready(FDPG(**settings), world).weigh(world.outcomes, world.outcomes.log_proposal_N)


def test_a_wrong_z_hat_scales_dpgs_gradient_prompt_by_prompt():
    world = World(("x", "y"), 2, elsewhere=True)
    objective = ready(DPG(), world)
    objective.running_z.log_sum_P = objective.running_z.log_sum_P + torch.tensor([0.7, -0.4])
    scale_P11 = torch.tensor([-0.7, 0.4], dtype=torch.float64).exp()[:, None, None]
    expected = world.gradient_of(kl_from_target) * scale_P11
    torch.testing.assert_close(world.expected_gradient(objective), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_alpha_needs_a_value_of_its_own(settings):
    with pytest.raises(ConfigError, match="with alpha ="):
        FDPG(divergence="alpha", **settings)


def test_alpha_is_for_alpha_alone():
    with pytest.raises(ConfigError, match="alpha is for"):
        FDPG(divergence="js", alpha=0.5)


def test_alphas_limits_are_the_two_kls():
    world = World(("x",), 2)
    for alpha, kind in ((1 - 1e-9, "forward_kl"), (1e-9, "reverse_kl")):
        near = world.expected_gradient(ready(FDPG(divergence="alpha", alpha=alpha), world))
        limit = world.expected_gradient(ready(FDPG(divergence=kind), world))
        torch.testing.assert_close(near, limit, rtol=0, atol=1e-6)


def better_and_worse(world: World) -> dict[str, po.TabularLM]:
    """Halfway to the target, and the same way in the other direction, in log-probs of outcomes."""
    found = {}
    for name, share in (("better", 0.5), ("worse", -0.5)):
        lm = po.TabularLM.random(world.policy.vocabulary, 2, world.policy.prompts)
        lm.requires_grad_(True)
        optimizer = torch.optim.LBFGS([lm.logits], lr=0.5, max_iter=200, tolerance_change=0)
        log_prior = torch.cat(world.exact.log_prior)
        log_star = torch.cat(world.exact.log_posterior)
        wanted_N = log_prior + share * (log_star - log_prior)
        wanted = torch.cat([part.softmax(0) for part in wanted_N.split(world.sizes)])

        def closure(lm=lm, wanted=wanted, optimizer=optimizer):
            optimizer.zero_grad()
            loss = -(wanted * lm.log_prob(world.outcomes.completions)).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        found[name] = lm
    return found


@pytest.mark.parametrize("name", ["better", "worse"])
def test_the_proposal_follows_a_policy_that_is_better_and_no_other(name):
    """The sign of the estimated difference of KLs is wrong in at most one case of 2.6e7 (5.5
    standard errors, by the delta method from all outcomes)."""
    world, num_samples, steps = World(("x", "y"), 1), 2000, 2
    policy, prior = better_and_worse(world)[name], world.target.prior
    with torch.no_grad():
        log_pi = policy.log_prob(world.outcomes.completions).split(world.sizes)
    gains, variances = [], []
    for log_p, log_star, log_q in zip(
        log_pi, world.exact.log_posterior, world.exact.log_prior, strict=True
    ):
        gain = float((log_star.exp() * (log_p - log_q)).sum())
        influence = (log_star - log_q).exp() * (log_p - log_q - gain)
        variances.append(float((log_q.exp() * influence.square()).sum()) / (num_samples * steps))
        gains.append(gain)
    gain, error = sum(gains) / 2, math.sqrt(sum(variances)) / 2
    assert (gain > 0) is (name == "better")
    assert abs(gain) > 5.5 * error

    objective = DPG(switch_every=steps)
    objective.prepare(
        world.target, lambda: po.TabularLM.random(policy.vocabulary, 2, policy.prompts), seed=0
    )
    for step in range(steps):
        assert objective.best.lm is prior
        generator = torch.Generator().manual_seed(step)
        draws = objective.draw(world.target, policy, world.target.prompts, num_samples, generator)
        with torch.no_grad():
            log_pi_N = policy.log_prob(draws.completions)
        figures = objective.observe(draws, log_pi_N)
    if name == "worse":
        assert objective.best.lm is prior
        assert figures["proposal_switches"] == 0
        return
    assert figures["proposal_switches"] == 1
    taken = objective.best.lm
    assert taken is not policy, "a frozen copy"
    torch.testing.assert_close(taken.logits, policy.logits.data, rtol=0, atol=0)
    policy.logits.data[..., 0] += 1.0
    assert not torch.equal(taken.logits, policy.logits.data)


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_an_adapted_proposal_survives_a_stop(policy, tmp_path):
    """After a switch the proposal is neither prior nor policy, and a resumed run has it back."""
    target = po.Target(tiny_lm(), po.Reward(_length, beta=0.5), ["a", "c d"], 3)
    settings = {"num_samples": 64, "learning_rate": 2e-3, "checkpoint_every": 3, "policy": policy}

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 7:
            raise Stop

    def run(at, **more):
        objective = DPG(switch_every=3)
        again = {"steps": 9, "output_dir": tmp_path / at, **settings, **more}
        return po.fit(target, objective, **again), objective

    with pytest.raises(Stop):
        run("run", on_step=stop)
    resumed, its = run("run", resume=True)
    whole, other = run("whole")
    assert [record["proposal_switches"] for record in whole.history][5] > 0
    assert [r["elbo"] for r in resumed.history] == [r["elbo"] for r in whole.history]
    for mine, theirs in ((resumed.policy, whole.policy), (its.best.lm, other.best.lm)):
        mine, theirs = mine.trained_state(), theirs.trained_state()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    q, pi = other.best.lm.trained_state(), whole.policy.trained_state()
    assert q.keys() == pi.keys()


def _length(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def test_a_second_fit_starts_from_scratch():
    objective = DPG(switch_every=2)
    target = po.Target(tiny_lm(), po.Constraint(has_c), ["a"], 3)
    settings = {"steps": 6, "num_samples": 32, "learning_rate": 1e-2}
    first, second = (po.fit(target, objective, **settings).history for _ in range(2))
    assert first[-1]["proposal_switches"] > 0
    for mine, theirs in zip(first, second, strict=True):
        assert mine["elbo"] == theirs["elbo"] or math.isnan(mine["elbo"])
        assert (mine["log_z"], mine["loss"]) == (theirs["log_z"], theirs["loss"])


def test_a_slope_that_is_not_the_limit_is_caught():
    world = HardWorld(("x",), 2)
    objective = ready(FDPG(divergence="js"), world)
    objective._kind = objective._kind._replace(slope_at_infinity=math.log(2))
    wrong = world.expected_gradient(objective) - world.gradient_of(jensen_shannon)
    assert float(wrong.abs().max()) > CAUGHT


def test_every_kind_of_divergence_has_a_case():
    shown = {case.settings.get("divergence") for case in CASES if case.name == "fdpg"}
    annotation = FDPG.Settings.model_fields["divergence"].annotation
    assert shown == set(annotation.__args__)
