"""kto: where unpaired feedback leads, by enumeration, and rows of it in the loop."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_lm
from scipy.optimize import brentq
from simplex import kl, pull
from torch import Tensor

import posteriori as po
from posteriori.errors import CheckpointError, ConfigError, DataError
from posteriori.objectives.preference.kto import KTO
from posteriori.testing.worlds import World

EXACT = 1e-8
WRONG = 1e4 * EXACT


@pytest.fixture
def world() -> World:
    """One prompt, draws of the prior."""
    made = World(("x",), 1)
    desirable_N = made.outcomes.log_evidence_N.sigmoid()
    made.outcomes = replace(
        made.outcomes,
        log_proposal_N=made.outcomes.log_prior_N,
        attached={"desirable_N": desirable_N},
    )
    return made


def with_reference(objective: KTO, kl: float) -> KTO:
    objective.kl = torch.tensor(kl, dtype=torch.float64)
    return objective


def population(world: World, objective: KTO):
    """E over draws of the prior."""
    constants = objective.weigh(world.outcomes, world.outcomes.log_prior_N)
    q_N = world.outcomes.log_prior_N.exp()

    def loss(log_pi_N: Tensor) -> Tensor:
        return (q_N * objective.loss(log_pi_N[:, None], constants)).sum()

    return loss


def pulls(world: World, undesirable_weight: float) -> Tensor:
    """w of each outcome."""
    p_N = world.outcomes.attached["desirable_N"]
    return p_N - undesirable_weight * (1 - p_N)


def ends(world: World, undesirable_weight: float, beta: float) -> Tensor:
    """log pi where q w b sigmoid'(b h - z) = m pi on w > 0, -inf elsewhere; z = b KL(pi, prior).

    With q the prior it is an equation for h, with sigmoid'(x) = sigmoid(x) sigmoid(-x); log m and z
    follow from the sum of probabilities and the KL."""
    w_N, log_prior_N = pulls(world, undesirable_weight), world.outcomes.log_prior_N
    likes_N = w_N > 0
    log_w_K, log_prior_K = w_N[likes_N].log().numpy(), log_prior_N[likes_N].numpy()

    def slope(x: float) -> float:
        return -np.logaddexp(0, x) - np.logaddexp(0, -x)

    def at(log_w: float, z: float, log_m: float) -> float:
        def above(h: float) -> float:
            return log_w + slope(beta * h - z) - h - log_m

        # At b = 1 the left side is at most w exp(-z), however small h is.
        return brentq(above, -90, 90, xtol=1e-15) if above(-90) > 0 else -90.0

    def solved(z: float) -> np.ndarray:
        def ratios(log_m: float) -> np.ndarray:
            return np.array([at(log_w, z, log_m) for log_w in log_w_K])

        def above(log_m: float) -> float:
            return float(np.logaddexp.reduce(log_prior_K + ratios(log_m)))

        return ratios(brentq(above, -40, 40, xtol=1e-15))

    def beyond(z: float) -> float:
        h_K = solved(z)
        return z - beta * float(np.exp(log_prior_K + h_K) @ h_K)

    h_K = solved(brentq(beyond, 0.0, 5.0, xtol=1e-13))
    found_N = torch.full_like(log_prior_N, -torch.inf)
    found_N[likes_N] = torch.from_numpy(log_prior_K + h_K)
    return found_N


@pytest.mark.parametrize("beta", [0.9, 0.3])
def test_where_all_are_desirable_on_balance_it_ends_by_its_formula_and_not_at_the_target(
    world, beta
):
    weight = 0.05
    assert bool((pulls(world, weight) > 0).all())
    ends_N = ends(world, weight, beta)
    assert float(ends_N.exp().sum()) == pytest.approx(1.0, abs=1e-10)
    at = kl(ends_N, world.outcomes.log_prior_N)
    objective = with_reference(KTO(proposal="prior", undesirable_weight=weight, beta=beta), at)
    assert float(pull(population(world, objective), ends_N).abs().max()) < EXACT
    star_N = world.exact.log_posterior[0]
    at_star = kl(star_N, world.outcomes.log_prior_N)
    there = population(world, with_reference(objective, at_star))
    assert float(pull(there, star_N).abs().max()) > 1e-3
    assert kl(ends_N, star_N) > 0.01


def test_what_is_undesirable_on_balance_loses_all_its_mass(world):
    """Its pull is down at any policy; and on what is left the formula holds."""
    w_N = pulls(world, 1.0)
    left_N = ends(world, 1.0, 1.0) > -60
    assert torch.equal(left_N, w_N > 0)
    assert bool((w_N < 0).any())
    assert bool((w_N > 0).any())
    objective = KTO(proposal="prior")
    constants = objective.weigh(world.outcomes, world.outcomes.log_prior_N)
    for seed in range(20):
        stream = torch.Generator().manual_seed(seed)
        log_pi_N = torch.randn(len(w_N), generator=stream, dtype=torch.float64).log_softmax(0)
        at_N1 = log_pi_N[:, None].clone().requires_grad_(True)
        objective.loss(at_N1, constants).sum().backward()
        assert torch.equal(at_N1.grad[:, 0].sign(), -w_N.sign())
    ends_N = ends(world, 1.0, 1.0)
    nearly_N = ends_N.clamp(min=-60).log_softmax(0)
    # The reference point is that of what is left.
    at = kl(nearly_N, world.outcomes.log_prior_N)
    loss = population(world, with_reference(objective, at))
    assert float(pull(loss, nearly_N).abs().max()) < EXACT


def written_out(world: World) -> Tensor:
    """The gradient of E_q[L_D P (1 - sigmoid(b h - z)) + L_U (1 - P) (1 - sigmoid(z - b h))]."""
    h_N = world.policy.log_prob(world.outcomes.completions) - world.outcomes.log_prior_N
    p_N, q_N = world.outcomes.attached["desirable_N"], world.outcomes.log_prior_N.exp()
    x_N = 0.6 * h_N - 0.6 * 0.4
    each_N = p_N / (1 + x_N.exp()) + 1.7 * (1 - p_N) / (1 + (-x_N).exp())
    return torch.autograd.grad((q_N * each_N).sum(), [world.policy.logits])[0]


_WRITTEN = {"proposal": "prior", "undesirable_weight": 1.7, "beta": 0.6}


def test_the_expected_gradient_is_that_of_the_population(world):
    objective = with_reference(KTO(**_WRITTEN), 0.4)
    exact = written_out(world)
    torch.testing.assert_close(world.expected_gradient(objective), exact, rtol=0, atol=EXACT)
    told_NL = world.policy.token_log_prob(world.outcomes.completions)
    total = torch.zeros((), dtype=torch.float64)
    for label in (0.0, 1.0):
        p_N = world.outcomes.attached["desirable_N"]
        label_N = torch.full_like(p_N, label)
        draws = replace(world.outcomes, attached={"desirable_N": label_N})
        probability_N = (p_N if label else 1 - p_N) * draws.log_prior_N.exp()
        constants = objective.weigh(draws, draws.log_prior_N)
        total = total + (probability_N * objective.loss(told_NL, constants)).sum()
    (sampled,) = torch.autograd.grad(total, [world.policy.logits])
    torch.testing.assert_close(sampled, exact, rtol=0, atol=EXACT)


class WithoutPrior(KTO):
    def weigh(self, draws, log_prob_N):
        constants = super().weigh(draws, log_prob_N)
        return {**constants, "log_prior_N": torch.zeros_like(draws.log_prior_N)}


class WithLabelsTurned(KTO):
    def weigh(self, draws, log_prob_N):
        constants = super().weigh(draws, log_prob_N)
        return {**constants, "desirable_N": 1 - constants["desirable_N"]}


class WithoutReferencePoint(KTO):
    @property
    def reference_point(self):
        return torch.zeros(())


class WithoutBeta(KTO):
    @property
    def beta(self):
        return 1.0


@pytest.mark.parametrize(
    "mutant", [WithoutPrior, WithLabelsTurned, WithoutReferencePoint, WithoutBeta]
)
def test_wrong_variants_are_caught(world, mutant):
    objective = with_reference(mutant(**_WRITTEN), 0.4)
    wrong = world.expected_gradient(objective) - written_out(world)
    assert float(wrong.abs().max()) > WRONG


@pytest.mark.parametrize("proposal", ["policy", "prior"])
def test_the_reference_point_follows_the_exact_kl(table, proposal):
    """At a policy that stands still, the running mean over many steps of 4,000 draws; six standard
    errors of each, so a false alarm in 5e8."""
    other = po.TabularLM.random(table.vocabulary, 3, table.prompts, seed=8)
    flat = po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0)
    target = po.Target(table, flat, table.prompts, 3)
    exact = float(po.exact(target).evaluate(other)["kl_to_prior"].mean())
    objective = KTO(proposal=proposal, kl_rate=1.0)
    stream = torch.Generator().manual_seed(0)
    draws = objective.draw(target, other, target.prompts, 20_000, stream)
    log_pi_N = other.log_prob(draws.completions).detach()
    objective.observe(draws, log_pi_N)
    ratio_N = log_pi_N - draws.log_prior_N
    t_N = ratio_N.exp()
    each_N = ratio_N if proposal == "policy" else t_N * ratio_N - t_N + 1
    error = float(each_N.std()) / len(draws) ** 0.5
    assert abs(float(objective.kl) - exact) < 6 * error
    assert 6 * error < 0.2 * exact


ROWS = [
    {"prompt": prompt, "completion": f" {word}", "label": word == "b"}
    for prompt in ("a", "c d", "e")
    for word in ("b", "d")
]


def words_target() -> po.Target:
    flat = po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0)
    return po.Target(tiny_lm(), flat, ["a", "c d"], 3)


def test_feedback_is_learnt_from():
    settings = {"feedback": ROWS}
    fit = po.fit(
        words_target(),
        "kto",
        objective_settings=settings,
        steps=60,
        num_samples=3,
        learning_rate=3e-3,
    )
    assert fit.history[0]["reference_point"] == 0.0
    assert fit.history[-1]["accuracy"] == 1.0
    assert "elbo" not in fit.history[-1], "nobody knows what drew the rows"
    assert fit.history[0]["draws"] == 6
    assert fit.history[-1]["lm_tokens"] < fit.history[0]["lm_tokens"], "the prior has seen all"


def test_trls_columns_are_read_whatever_their_form(table):
    rows = [
        {"prompt": "x", "completion": [1, 0], "label": True, "other": 3},
        {"prompt": "y", "completion": [2, 0], "label": 0},
    ]
    target = po.Target(table, [], table.prompts, 3)
    settings = {"feedback": rows, "rows_per_step": 5}
    fit = po.fit(target, "kto", objective_settings=settings, steps=2, num_samples=1)
    assert fit.history[0]["draws"] == 5
    chat = [
        {
            "prompt": [{"role": "user", "content": "hi"}],
            "completion": [{"role": "assistant", "content": "ho"}],
            "label": True,
        }
    ]
    (read,) = KTO(feedback=chat)._feedback
    assert read.completion == "ho"
    assert read.desirable is True


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "completion": "a"}, "no 'label'"),
        ({"prompt": "x", "completion": "a", "lable": True}, "no 'label'"),
        ({"prompt": "x", "completion": "a", "label": "yes"}, "'label' is 'yes'"),
        ({"prompt": "x", "completion": "a", "label": 2}, "'label' is 2"),
        ({"prompt": "x", "completion": "", "label": True}, "'completion' is empty"),
        ({"prompt": 3, "completion": "a", "label": True}, "'prompt' is 3"),
        ({"prompt": "x", "completion": 3, "label": True}, "'completion' is 3"),
    ],
)
def test_what_is_no_feedback_is_named_with_its_place(row, message):
    with pytest.raises(DataError, match=rf"feedback\[1\]: .*{message}"):
        KTO(feedback=[ROWS[0], row])


def test_no_rows_are_an_error():
    with pytest.raises(DataError, match="no rows"):
        KTO(feedback=[])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"rows_per_step": 2}, "rows_per_step"),
        ({"feedback": ROWS, "labels": "sampled"}, "labels"),
        ({"feedback": ROWS, "proposal": "prior"}, "proposal"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings, name):
    with pytest.raises(ConfigError, match=name):
        KTO(**settings)


def test_a_stopped_run_on_feedback_ends_with_the_same_weights_and_refuses_other_rows(tmp_path):
    file = tmp_path / "feedback.jsonl"
    settings = {"steps": 5, "num_samples": 2, "learning_rate": 1e-2}
    settings |= {"objective_settings": {"feedback": str(file)}}

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 2:
            raise Stop

    def write(rows) -> None:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(ROWS)
    with pytest.raises(Stop):
        po.fit(words_target(), "kto", output_dir=tmp_path / "run", on_step=stop, **settings)
    write(ROWS[1:])
    with pytest.raises(CheckpointError, match="rows of feedback are not those"):
        po.fit(words_target(), "kto", output_dir=tmp_path / "run", resume=True, **settings)
    write(ROWS)
    resumed = po.fit(words_target(), "kto", output_dir=tmp_path / "run", resume=True, **settings)
    whole = po.fit(words_target(), "kto", **settings)
    for name, tensor in whole.policy.trained_state().items():
        assert torch.equal(tensor, resumed.policy.trained_state()[name]), name
    assert resumed.history[-1]["reference_point"] == whole.history[-1]["reference_point"] != 0
