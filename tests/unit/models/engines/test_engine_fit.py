"""Training on an engine's draws: exact weights, and no engine that has the wrong weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_fakes import Fake
from helpers import has_c, reward, tiny_lm
from objective_cases import CASES, any_log_z, exact_z

import posteriori as po
from posteriori.core.registry import find
from posteriori.errors import ConfigError, EngineError
from posteriori.objectives.base import OF_MODEL
from posteriori.testing.gradient import declared
from posteriori.testing.worlds import World

ON_POLICY = [
    ("rl", {}),
    ("reinforce", {}),
    ("rloo", {}),
    ("grpo", {}),
    ("gspo", {}),
    ("cispo", {}),
    ("ppo", {"epochs": 1}),
    ("fdpg", {"divergence": "reverse_kl"}),
    ("dpg", {"proposal": "policy"}),
    ("vargrad", {}),
    ("tb", {}),
]


def gradients(name: str, settings: dict, *, told: bool):
    """The expected gradient of draws that an engine made from quite another distribution, and that
    of the declared divergence; `told`: whether the objective knows the policy's own log-probs."""
    objective = find("objective", name)(**settings)
    world = World(("x",), 2, elsewhere=True)
    objective.prepare(world.target, lambda: world.policy, seed=0)
    if name in ("fdpg", "dpg"):
        exact_z(objective, world)
    if name == "tb":
        any_log_z(objective, world)
    with torch.no_grad():
        own_NL = world.policy.token_log_prob(world.outcomes.completions)
    if told:
        world.outcomes = replace(world.outcomes, attached={OF_MODEL: own_NL})
    case = next(c for c in CASES if c.name == name and c.divergence is not None)
    divergence = case.divergence if objective.divergence is None else declared(objective)
    return world.expected_gradient(objective), world.gradient_of(divergence)


@pytest.mark.parametrize(("name", "settings"), ON_POLICY, ids=[name for name, _ in ON_POLICY])
def test_the_expected_gradient_of_an_engines_draws_is_the_policys(name, settings):
    found, expected = gradients(name, settings, told=True)
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_the_engines_log_probs_in_the_policys_place_are_caught(name):
    """A mutant: this is what a loop does that takes the sampler's log-probs for the policy's."""
    settings = dict(ON_POLICY)[name]
    found, expected = gradients(name, settings, told=False)
    assert float((found - expected).abs().max()) > 1e-3


def target(lm=None) -> po.Target:
    return po.Target(lm or tiny_lm(), po.Reward(reward, beta=0.5), ["a", "c d", "e"], 4)


def run(fake, objective="rloo", lm=None, steps=6, **settings):
    there = target(lm)
    engine = po.Engine(there.prior, fake)
    settings = {"num_samples": 8, "learning_rate": 1e-2, "seed": 0} | settings
    return po.fit(there, objective, steps=steps, sampler=engine, **settings), engine


EVERY = sorted({case.name for case in CASES})


@pytest.mark.long
@pytest.mark.parametrize("name", EVERY)
def test_every_objective_learns_from_an_engines_draws(name):
    fitted, engine = run(Fake(torch.bfloat16, tolerance=0.25), name, steps=3)
    for record in fitted.history:
        assert 0 < record["engine_kl"] < 0.05
        assert 0.9 < record["engine_ess"] <= 1
        assert record["draws"] == 24
    assert engine._session.reloads == 0


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_the_record_is_that_of_the_policy_and_not_of_the_engine(policy):
    """With an engine that rounds like the model there is no mismatch, and one verified update after
    each step."""
    fitted, engine = run(Fake(), policy=policy, steps=4)
    assert [record["engine_kl"] for record in fitted.history] == pytest.approx([0] * 4, abs=1e-9)
    assert [record["engine_ess"] for record in fitted.history] == pytest.approx([1] * 4)
    assert engine._session.updates == 4
    # 16 after each change, and the first step's draws once more for `effective_draws`.
    assert engine._given.scored == 4 * 16 + 24


def test_a_run_without_an_engine_has_no_such_figures():
    fitted = po.fit(target(), "rloo", steps=1, num_samples=4)
    assert not {"engine_kl", "engine_ess"} & fitted.history[0].keys()


def test_an_update_that_was_lost_once_is_loaded_again():
    _, engine = run(Fake(sabotage="stale once"))
    assert engine._session.reloads == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sabotage", ["stale", "half", "tempered"])
def test_an_engine_with_other_weights_is_refused(sabotage, dtype):
    fake = Fake(dtype, sabotage, tolerance=0.005 if dtype == torch.float32 else 0.1)
    with pytest.raises(EngineError, match="does not draw from the model's weights"):
        run(fake, steps=20)


@pytest.mark.parametrize("sabotage", ["temperature", "top_p"])
def test_draws_that_do_not_follow_their_log_probs_are_refused(sabotage):
    engine = po.Engine(tiny_lm(), Fake(sabotage=sabotage))
    random = torch.Generator().manual_seed(0)

    def draw_often():
        for _ in range(30):
            engine.sample(["a", "c d"], 60, 4, random)

    with pytest.raises(EngineError, match="temperature below 1"):
        draw_often()


def test_a_finding_says_when_half_of_the_draws_are_lost(case_1):
    """An engine at another temperature, whose user says that its rounding explains it."""
    there = case_1.target()
    engine = po.Engine(there.prior, Fake(sabotage="tempered", tolerance=1e3, temperature=0.35))
    fitted = po.fit(there, "rloo", steps=1, num_samples=16, sampler=engine)
    assert [finding.name for finding in fitted.findings] == ["engine_mismatch"]
    assert fitted.history[0]["engine_ess"] < 0.5


@pytest.mark.long
def test_off_policy_objectives_load_what_they_draw_from():
    """The prior alone: its weights are loaded once."""
    _, engine = run(Fake(), "rwr", steps=4)
    assert engine._session.updates == 1
    _, engine = run(Fake(), "dpg", steps=4, objective_settings={"switch_every": 2})
    assert 1 <= engine._session.updates <= 3


def test_a_prefix_of_the_priors_is_before_what_the_engine_reads():
    there = target(po.Prompted(tiny_lm(), "b b "))
    engine = po.Engine(there.prior.lm, Fake())
    fitted = po.fit(there, "rwr", steps=2, num_samples=8, sampler=engine)
    assert fitted.history[0]["engine_kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.long
def test_a_stopped_run_ends_with_the_same_weights(tmp_path):
    def weights(fitted):
        return torch.cat([t.flatten() for t in fitted.policy.trained_state().values()])

    def stop(record):
        if record["step"] == 2:
            raise KeyboardInterrupt

    settings = {"checkpoint_every": 1, "replay": 1}
    with pytest.raises(KeyboardInterrupt):
        run(Fake(), output_dir=tmp_path / "run", on_step=stop, **settings)
    resumed, _ = run(Fake(), output_dir=tmp_path / "run", resume=True, **settings)
    whole, _ = run(Fake(), output_dir=tmp_path / "whole", **settings)
    assert torch.equal(weights(resumed), weights(whole))


def test_what_cannot_be_a_sampler(tmp_path):
    with pytest.raises(ConfigError, match="what draws for a policy is an engine"):
        po.fit(target(), "rloo", steps=1, sampler="importance")
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "d"}] * 2
    there = target()
    with pytest.raises(ConfigError, match="draws nothing"):
        po.fit(
            there,
            "dpo",
            steps=1,
            objective_settings={"pairs": pairs},
            sampler=po.Engine(there.prior, Fake()),
        )


def test_hard_evidence_and_an_engine():
    there = po.Target(tiny_lm(), po.Constraint(has_c), ["a", "e"], 4)
    engine = po.Engine(there.prior, Fake(torch.bfloat16, tolerance=0.25))
    fitted = po.fit(there, "dpg", steps=2, num_samples=16, sampler=engine)
    assert fitted.history[-1]["engine_ess"] > 0.9
