"""With Ray the verbs say what they say without, to the bit for any number of actors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ray_jobs import count_e, dies, digest, noisy, of_numbers, same_numbers, target

import posteriori as po
from posteriori.distributed.ray_package import ray_module
from posteriori.errors import ConfigError, DistributedError, EvidenceError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ROUNDING = 1e-4
"""Of log-probs in float32, summed in batches of another size."""


@pytest.fixture(scope="module")
def cluster():
    """One for all of them, with room for two actors beside those that are kept."""
    ray = ray_module()
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def one(cluster):
    with po.RayActors(1) as actors:
        yield actors


SAMPLERS = {
    "importance": {},
    "rejection": {"max_draws": 1000},
    "best_of_n": {"n": 4},
    "qrs": {},
    "imh": {"burn_in": 2, "thin": 1},
    "annealed": {},
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_draw_the_same(name, one):
    world, settings = target(6, beta=5.0), SAMPLERS[name]
    here = po.sample(world, name, 8, seed=3, **settings)
    there = po.sample(world, name, 8, seed=3, ray=one, **settings)
    assert torch.equal(here.completions.tokens_NL, there.completions.tokens_NL)
    assert (here.log_prior_N - there.log_prior_N).abs().max() < ROUNDING
    assert there.log_z is not None
    assert there.log_z.value == pytest.approx(here.log_z.value, abs=ROUNDING)


def test_any_number_of_actors_gives_the_same_bits(one):
    world = target()
    with po.RayActors(2) as two:
        digests = {
            digest(po.sample(world, num_samples=24, seed=1, ray=actors)) for actors in (one, two)
        }
    assert len(digests) == 1


def test_evaluate_and_frontier_say_the_same(one):
    world = target(4)
    policy = po.fit(world, "rloo", steps=2, num_samples=8, policy="lora", seed=0).policy
    here = po.evaluate(world, policy, num_samples=40, seed=0)
    there = po.evaluate(world, policy, num_samples=40, seed=0, ray=one)
    assert same_numbers(here, there, 1e-3)
    assert there["kl_to_target"].value > 0
    curve = po.frontier(world, num_samples=100, stages=1, seed=0)
    far = po.frontier(world, num_samples=100, stages=1, seed=0, ray=one)
    assert far.at_beta(20).kl.value == pytest.approx(curve.at_beta(20).kl.value, abs=1e-4)
    assert curve.at_beta(20).kl.value > 1e-3


def test_a_policy_that_was_trained_between_two_calls_is_sent_again(one):
    world = target(4)
    policy = po.fit(world, "rloo", steps=1, num_samples=8, seed=0).policy
    before = po.sample(world, proposal=policy, num_samples=8, seed=0, ray=one)
    with torch.no_grad():
        for weight in policy.module.parameters():
            weight.data.mul_(0.5)
    after = po.sample(world, proposal=policy, num_samples=8, seed=0, ray=one)
    here = po.sample(world, proposal=policy, num_samples=8, seed=0)
    assert not torch.equal(before.log_proposal_N, after.log_proposal_N)
    assert (here.log_proposal_N - after.log_proposal_N).abs().max() < ROUNDING


def test_experts_judges_and_prefixes_are_spread_too(one):
    prior = po.load("tiny")

    def world():
        evidence = [
            po.Expert(prior, 0.5, prompt_prefix="Polite: "),
            po.Judge(prior, "Is it polite?", yes=["good"], no=["bad"]),
            po.Constraint(lambda completions, **_: [len(text) > 3 for text in completions]),
        ]
        return po.Target(po.Prompted(prior, "Hello. "), evidence, ["The food", "The place"], 6)

    here = po.sample(world(), num_samples=40, seed=0)
    there = po.sample(world(), num_samples=40, seed=0, ray=one)
    gap_N = (here.log_evidence_N - there.log_evidence_N).nan_to_num(0.0)
    assert torch.equal(here.log_evidence_N.isneginf(), there.log_evidence_N.isneginf())
    assert gap_N.abs().max() < 1e-3
    assert here.cost.lm_tokens == there.cost.lm_tokens
    assert here.cost.evidence_calls == there.cost.evidence_calls


def test_a_function_that_draws_numbers_draws_the_same_ones(one):
    world = target(fn=noisy)
    first = po.sample(world, num_samples=16, seed=0, ray=one)
    with po.RayActors(2) as two:
        again = po.sample(world, num_samples=16, seed=0, ray=two)
    other = po.sample(world, num_samples=16, seed=1, ray=one)
    assert digest(first) == digest(again)
    assert not torch.equal(first.reward_N, other.reward_N)
    # 192 rows are three pieces, each with numbers of its own.
    assert len(set(first.reward_N.tolist())) == len(first)


def test_an_error_is_the_one_of_the_first_rows_and_the_actors_go_on(one):
    with pytest.raises(EvidenceError, match="raised ValueError: no number in 64 texts"):
        po.sample(target(fn=of_numbers), num_samples=16, ray=one)
    assert len(po.sample(target(2), num_samples=4, ray=one)) == 8


def test_a_cache_and_its_counts_are_those_of_one_process(one):
    def made():
        reward = po.Reward(count_e, beta=1.0, cache=True)
        return reward, po.Target(po.load("tiny"), reward, ["The food"] * 2, 2)

    counts = []
    for actors in (None, one):
        reward, world = made()
        for _ in range(2):
            po.sample(world, num_samples=60, seed=0, ray=actors)
        counts.append(replace(reward.counts, calls=0))
    assert counts[0] == counts[1]
    assert counts[0].cache_hits > 0


def test_what_goes_token_by_token_is_refused(one):
    with pytest.raises(DistributedError, match="not shared out"):
        po.sample(target(2), "smc", num_samples=8, ray=one)


def test_closed_actors_are_refused(cluster):
    actors = po.RayActors(1)
    actors.close()
    with pytest.raises(ConfigError, match="closed"):
        po.sample(target(2), num_samples=4, ray=actors)


def test_a_piece_that_kills_every_actor_ends_in_one_line(cluster, monkeypatch):
    monkeypatch.setattr("posteriori.distributed.ray_pool._TRIES", 1)
    with po.RayActors(1) as actors, pytest.raises(DistributedError, match="could not finish"):
        po.sample(target(2, fn=dies), num_samples=4, ray=actors)


def test_a_cluster_without_room_or_without_an_answer_is_refused(one):
    with pytest.raises(DistributedError, match="have not started"):
        po.RayActors(1, cpus_per_actor=64, start_timeout=2.0)
    with pytest.raises(ConfigError, match="connected to Ray already"):
        po.RayActors(1, address="127.0.0.1:1")
