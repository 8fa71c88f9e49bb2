"""dpo and ipo: their population losses by enumeration, and preference data in the loop."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from helpers import tiny_lm
from torch import Tensor
from torch.nn.functional import logsigmoid

import posteriori as po
from posteriori.errors import CheckpointError, ConfigError, DataError, ObjectiveError
from posteriori.objectives.preference.dpo import DPO
from posteriori.objectives.preference.ipo import IPO
from posteriori.testing.worlds import World
from posteriori.train.checkpoint import latest_checkpoint

EXACT = 1e-8
WRONG = 1e4 * EXACT
TABLE_PAIRS = [
    {"prompt": "x", "chosen": [1, 2, 0], "rejected": [3, 0]},
    {"prompt": "y", "chosen": [0], "rejected": [1, 1, 1]},
    {"prompt": "x", "chosen": [2, 0], "rejected": [0]},
]


@pytest.fixture
def world() -> World:
    """One prompt, pairs of the prior's draws."""
    made = World(("x",), 2)
    made.outcomes = replace(made.outcomes, log_proposal_N=made.outcomes.log_prior_N)
    return made


def population(world: World, loss, q_N: Tensor) -> Tensor:
    """The gradient of E over pairs y1, y2 ~ q of loss(h, log e1 - log e2)."""
    log_pi_N = world.policy.log_prob(world.outcomes.completions)
    g_N = log_pi_N - world.outcomes.log_prior_N
    e_N = world.outcomes.log_evidence_N
    each_NN = loss(g_N[:, None] - g_N, e_N[:, None] - e_N)
    mean = (q_N[:, None] * q_N * each_NN).sum()
    return torch.autograd.grad(mean, [world.policy.logits])[0]


def cross_entropy(beta: float):
    def loss(h, odds):
        p = (beta * odds).sigmoid()
        return -p * logsigmoid(beta * h) - (1 - p) * logsigmoid(-beta * h)

    return loss


def square(tau: float):
    """Up to a constant, what Azar et al. minimise."""
    return lambda h, odds: (h - (odds.sigmoid() - 0.5) / tau) ** 2


def under_sampled_labels(world: World, objective) -> Tensor:
    """The expected gradient over draws and over their labels."""
    told_NL = world.policy.token_log_prob(world.outcomes.completions)
    total = torch.zeros((), dtype=torch.float64)
    for rows in world.tuples():
        draws = world.outcomes.select(rows)
        p = (objective.label_scale * (draws.log_evidence_N[0] - draws.log_evidence_N[1])).sigmoid()
        for u, probability in ((0.999 * p, p), (1 - 0.999 * (1 - p), 1 - p)):
            order = objective.labelled(draws, u[None])
            constants = objective.weigh(draws.select(order), draws.log_prior_N)
            weight = probability * draws.log_proposal_N.sum().exp()
            total = total + weight * objective.loss(told_NL[rows[order]], constants).mean()
    return torch.autograd.grad(total, [world.policy.logits])[0]


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_dpos_expected_gradient_is_that_of_its_population_loss(world, beta):
    exact = population(world, cross_entropy(beta), world.outcomes.log_prior_N.exp())
    assert float(exact.abs().max()) > 0.01
    expected = world.expected_gradient(DPO(beta=beta))
    torch.testing.assert_close(expected, exact, rtol=0, atol=EXACT)
    sampled = under_sampled_labels(world, DPO(beta=beta, labels="sampled"))
    torch.testing.assert_close(sampled, exact, rtol=0, atol=EXACT)


def test_ipos_expected_gradient_is_that_of_its_population_loss(world):
    exact = population(world, square(0.3), world.outcomes.log_prior_N.exp())
    expected = world.expected_gradient(IPO(beta=0.3))
    torch.testing.assert_close(expected, exact, rtol=0, atol=EXACT)
    sampled = under_sampled_labels(world, IPO(beta=0.3, labels="sampled"))
    torch.testing.assert_close(sampled, exact, rtol=0, atol=EXACT)


def test_draws_from_the_policy_weigh_pairs_by_the_policy(world):
    with torch.no_grad():
        log_pi_N = world.policy.log_prob(world.outcomes.completions)
    world.outcomes = replace(world.outcomes, log_proposal_N=log_pi_N)
    exact = population(world, cross_entropy(1.0), log_pi_N.exp())
    expected = world.expected_gradient(DPO(proposal="policy"))
    torch.testing.assert_close(expected, exact, rtol=0, atol=EXACT)


class WithoutPrior(DPO):
    def weigh(self, draws, log_prob_N):
        constants = super().weigh(draws, log_prob_N)
        return {**constants, "log_prior_N": torch.zeros_like(draws.log_prior_N)}


class WithHalfOfBeta(DPO):
    @property
    def label_scale(self):
        return 2.0


class WithTheOddsTurned(DPO):
    def probability(self, draws):
        return 1 - super().probability(draws)


@pytest.mark.parametrize("mutant", [WithoutPrior, WithHalfOfBeta, WithTheOddsTurned])
def test_wrong_variants_of_dpo_are_caught(world, mutant):
    exact = population(world, cross_entropy(1.0), world.outcomes.log_prior_N.exp())
    assert (world.expected_gradient(mutant()) - exact).abs().max() > WRONG


def test_dpo_without_the_end_of_sequence_is_caught(world):
    completions = world.outcomes.completions
    told_NL = world.policy.token_log_prob(completions).masked_fill(completions.tokens_NL == 0, 0)
    exact = population(world, cross_entropy(1.0), world.outcomes.log_prior_N.exp())
    assert (world.expected_gradient(DPO(), told_NL) - exact).abs().max() > WRONG


def all_pairs(world: World) -> Tensor:
    size = world.sizes[0]
    return torch.cartesian_prod(torch.arange(size), torch.arange(size)).flatten()


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_at_the_posterior_dpos_gradient_vanishes_for_every_pair(world, beta):
    rows = all_pairs(world)
    constants = DPO(beta=beta).weigh(world.outcomes.select(rows), rows)
    at_N = world.exact.log_posterior[0][rows][:, None].clone().requires_grad_(True)
    DPO(beta=beta).loss(at_N, constants).sum().backward()
    torch.testing.assert_close(at_N.grad, torch.zeros_like(at_N), rtol=0, atol=1e-12)


def test_label_smoothing_moves_dpo_off_the_target(world):
    rows = all_pairs(world)
    smooth = DPO(label_smoothing=0.1)
    constants = smooth.weigh(world.outcomes.select(rows), rows)
    at_N = world.exact.log_posterior[0][rows][:, None].clone().requires_grad_(True)
    smooth.loss(at_N, constants).sum().backward()
    assert at_N.grad.abs().max() > 0.01


def test_ipo_ends_where_it_says(world):
    """pi ~ prior exp(P(y > prior) / tau): there the gradient vanishes, and at the target not."""
    tau, rows = 0.3, all_pairs(world)
    prior_N, e_N = world.exact.log_prior[0].exp(), world.exact.log_evidence[0]
    preferred_N = ((e_N[:, None] - e_N).sigmoid() * prior_N).sum(1)
    ends_N = (prior_N.log() + preferred_N / tau).log_softmax(0)
    objective = IPO(beta=tau)
    constants = objective.weigh(world.outcomes.select(rows), rows)
    weight_n = (prior_N[:, None] * prior_N).flatten()

    def gradient(log_pi_N: Tensor) -> Tensor:
        at_N = log_pi_N.clone().requires_grad_(True)
        (weight_n * objective.loss(at_N[rows][:, None], constants)).sum().backward()
        return at_N.grad

    zero_N = torch.zeros_like(ends_N)
    torch.testing.assert_close(gradient(ends_N), zero_N, rtol=0, atol=1e-12)
    assert gradient(world.exact.log_posterior[0]).abs().max() > 0.01


def test_on_preference_data_the_losses_are_those_of_the_papers_and_of_trl():
    """TRL's 'sigmoid' loss: -logsigmoid(beta (chosen ratio - rejected ratio)), beta 0.1 by default;
    its gradient by hand is beta sigmoid(-beta h) on the rejected, minus that on the chosen."""
    log_pi_N = torch.tensor([-3.0, -5.0, -2.5, -1.0], dtype=torch.float64, requires_grad=True)
    log_prior_N = torch.tensor([-4.0, -4.5, -2.0, -1.5], dtype=torch.float64)
    constants = {
        "log_prior_N": log_prior_N,
        "preferred_N": torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64),
    }
    h_n = [(-3.0 + 4.0) - (-5.0 + 4.5), (-2.5 + 2.0) - (-1.0 + 1.5)]
    loss = DPO(pairs=TABLE_PAIRS).loss(log_pi_N[:, None], constants)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-0.1 * h)) for h in h_n])
    loss.sum().backward()
    slopes = [0.1 / (1 + math.exp(0.1 * h)) for h in h_n]
    by_hand = [-slopes[0], slopes[0], -slopes[1], slopes[1]]
    assert log_pi_N.grad.tolist() == pytest.approx(by_hand)
    squares = IPO(pairs=TABLE_PAIRS).loss(log_pi_N.detach()[:, None], constants)
    assert squares.tolist() == pytest.approx([(h - 5.0) ** 2 for h in h_n])
    smooth = DPO(pairs=TABLE_PAIRS, label_smoothing=0.2).loss(log_pi_N.detach()[:, None], constants)
    wanted = [
        0.8 * math.log1p(math.exp(-0.1 * h)) + 0.2 * math.log1p(math.exp(0.1 * h)) for h in h_n
    ]
    assert smooth.tolist() == pytest.approx(wanted)


def flat(completion_ids, **kwargs):
    return [0.0 for _ in completion_ids]


def words_target(max_new_tokens: int = 3) -> po.Target:
    return po.Target(tiny_lm(), po.Reward(flat, beta=1.0), ["a", "c d"], max_new_tokens)


PAIRS = [
    {"prompt": prompt, "chosen": f" b {end}", "rejected": f" d {end}"}
    for prompt in ("a", "c d", "e")
    for end in ("", "a", "c c c")
]


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_pairs_are_learnt_from(name):
    """b is always preferred to d; nothing else of a target is asked."""
    fitted = po.fit(
        words_target(),
        name,
        objective_settings={"pairs": PAIRS},
        steps=60,
        num_samples=4,
        learning_rate=3e-3,
    )
    first, last = fitted.history[0], fitted.history[-1]
    assert first["accuracy"] == 0.5
    assert first["margin"] == 0
    assert last["accuracy"] == 1
    assert last["margin"] > 1
    assert last["margin"] == pytest.approx(last["chosen_log_ratio"] - last["rejected_log_ratio"])
    assert "elbo" not in last, "nobody knows what drew the pairs"
    assert first["draws"] == 8, "two prompts, four completions each"
    lm_tokens = [record["lm_tokens"] for record in fitted.history]
    assert max(lm_tokens[3:]) < min(lm_tokens[:2]), "the prior has seen every pair by then"


def test_every_pair_has_its_turn_once_an_epoch(table):
    target = po.Target(table, po.Reward(flat, beta=1.0), table.prompts, 3)
    orders = {}
    for seed in range(4):
        objective = DPO(pairs=TABLE_PAIRS)
        objective.prepare(target, lambda: table, seed=seed)
        turns = torch.cat([objective._data.rows(first, 2) for first in range(0, 12, 2)])
        epochs = turns.view(4, 3, 2)
        assert torch.equal(epochs[..., 0] + 1, epochs[..., 1]), "pairs stay together"
        assert torch.equal(epochs[..., 0].sort(1).values, torch.tensor([[0, 2, 4]] * 4))
        assert torch.equal(objective._data.rows(0, 12), turns), "whatever the steps"
        orders[seed] = tuple(turns.tolist())
    assert len(set(orders.values())) > 1


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_stopped_run_on_pairs_ends_with_the_same_bits(tmp_path, policy):
    settings = {"steps": 7, "num_samples": 2, "checkpoint_every": 2, "policy": policy}
    settings |= {"learning_rate": 1e-2, "objective_settings": {"pairs": PAIRS}, "replay": 1}

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        po.fit(words_target(), "dpo", output_dir=tmp_path / "run", on_step=stop, **settings)
    po.fit(words_target(), "dpo", output_dir=tmp_path / "run", resume=True, **settings)
    po.fit(words_target(), "dpo", output_dir=tmp_path / "whole", **settings)
    mine, theirs = (latest_checkpoint(tmp_path / at / "checkpoints") for at in ("run", "whole"))
    for file in ("policy.safetensors", "optimizer.pt", "others.pt"):
        assert (mine / file).read_bytes() == (theirs / file).read_bytes(), file


def test_a_run_does_not_go_on_with_other_pairs(tmp_path):
    def fit(steps, resume):
        return po.fit(
            words_target(),
            "dpo",
            objective_settings={"pairs": str(tmp_path / "pairs.jsonl")},
            steps=2,
            num_samples=2,
            output_dir=tmp_path / "run",
            resume=resume,
        )

    write(tmp_path / "pairs.jsonl", PAIRS)
    fit(2, resume=False)
    write(tmp_path / "pairs.jsonl", PAIRS[1:])
    with pytest.raises(CheckpointError, match="not those that the run began with"):
        fit(2, resume=True)


def write(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_pairs_per_step_is_for_preference_data(table):
    target = po.Target(table, po.Reward(flat, beta=1.0), table.prompts, 3)
    settings = {"pairs": TABLE_PAIRS, "pairs_per_step": 5}
    fitted = po.fit(target, "ipo", objective_settings=settings, steps=1, num_samples=1)
    assert fitted.history[0]["draws"] == 10


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"pairs_per_step": 2}, "pairs_per_step"),
        ({"pairs": TABLE_PAIRS, "labels": "sampled"}, "labels"),
        ({"pairs": TABLE_PAIRS, "proposal": "prior"}, "proposal"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings, name):
    with pytest.raises(ConfigError, match=name):
        DPO(**settings)


def test_an_odd_number_of_draws_is_refused(table):
    target = po.Target(table, po.Reward(flat, beta=1.0), table.prompts, 3)
    with pytest.raises(ObjectiveError, match="two by two, and num_samples is 3"):
        po.fit(target, "dpo", steps=1, num_samples=3)


def test_a_prompt_that_a_table_does_not_have_is_named_with_its_row(table):
    target = po.Target(table, po.Reward(flat, beta=1.0), table.prompts, 3)
    rows = [*TABLE_PAIRS, {"prompt": "z", "chosen": [0], "rejected": [1, 0]}]
    with pytest.raises(po.errors.PromptError, match=r"pairs\[3\]: .*no prompt 'z'"):
        po.fit(target, "dpo", objective_settings={"pairs": rows}, steps=1)


def test_texts_need_a_tokenizer(table):
    target = po.Target(table, po.Reward(flat, beta=1.0), table.prompts, 3)
    rows = [{"prompt": "x", "chosen": "a", "rejected": "b"}]
    with pytest.raises(po.errors.ModelError, match="no tokenizer"):
        po.fit(target, "dpo", objective_settings={"pairs": rows}, steps=1)


def test_no_pairs_are_an_error():
    with pytest.raises(DataError, match="no pairs"):
        DPO(pairs=[])
