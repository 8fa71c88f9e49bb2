"""Nothing that is not finite reaches the weights or a checkpoint, and the culprits are named."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import B, reward, tiny_lm

import posteriori as po
from posteriori.core.settings.training import FitConfig
from posteriori.errors import NonFiniteError
from posteriori.objectives.policy_gradient.rloo import RLOO
from posteriori.runs.directory import RunDirectory
from posteriori.train.checkpoint import latest_checkpoint
from posteriori.train.fit import Trainer


@pytest.fixture
def target(gpt2) -> po.Target:
    return po.Target(gpt2, po.Reward(reward, beta=1.0), ["a", "c d"], 3)


class PoisonedWeight(RLOO):
    """The weight of the completions that start with "b" is `value`, from step 2 on."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.steps = value, 0

    def weigh(self, draws, log_prob_N):
        self.steps += 1
        weight_N = super().weigh(draws, log_prob_N)["weight_N"]
        starts_with_b = draws.completions.tokens_NL[:, 0] == B
        return {"weight_N": weight_N.masked_fill(starts_with_b & (self.steps > 2), self.value)}


def fit(target, objective, run, **settings) -> po.Fit:
    return po.fit(
        target, objective, steps=6, num_samples=16, checkpoint_every=5, output_dir=run, **settings
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "the loss's constant 'weight_N' is nan"),
        (math.inf, "the loss's constant 'weight_N' is inf"),
        (1e60, "the gradient norm is (inf|nan)"),
    ],
)
@pytest.mark.parametrize("policy", ["full", "lora"])
@pytest.mark.moves_rng
def test_a_bad_weight_or_gradient_stops_the_run_before_the_update(
    target, tmp_path, value, message, policy
):
    with pytest.raises(NonFiniteError, match=message) as caught:
        fit(target, PoisonedWeight(value), tmp_path / "run", policy=policy)
    error = caught.value
    assert error.where == "step 2"
    named = error.what.split(": ", 1)[1].split("; ")
    assert all(name.startswith("'b") for name in named), "only completions that begin with b did it"
    assert " of 32 completions" in error.what
    assert "the update was not made" in error.hint

    last = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert last.name == "step-00000002"
    resumed = fit(target, "rloo", tmp_path / "run", policy=policy, resume=True)
    good = fit(target, "rloo", tmp_path / "good", policy=policy)
    mine, theirs = resumed.policy.trained_state(), good.policy.trained_state()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_sum_that_overflows_is_no_single_completions_fault(table):
    """Each draw's gradient is finite in float64; the square of their norm is not."""
    target = po.Target(
        table, po.Reward(lambda completions, **kw: [0.0] * len(completions), 1.0), table.prompts, 3
    )
    with pytest.raises(NonFiniteError, match="no single completion makes it so"):
        po.fit(target, PoisonedWeight(1e200), steps=6, num_samples=16)


def trainer_that_spoils_its_weights(target, run, at: int) -> Trainer:
    """After step `at` one weight of the policy is NaN, as after an update that went wrong."""

    def spoil(record):
        if record["step"] == at:
            next(iter(trainer.policy.trained_state().values())).view(-1)[0] = math.nan

    settings = FitConfig(steps=6, num_samples=4, checkpoint_every=2)
    directory = RunDirectory(run, {"objective": "rloo"}, resume=False)
    trainer = Trainer(target, RLOO(), settings, directory, spoil)
    return trainer


@pytest.mark.parametrize("at", [2, 3], ids=["between checkpoints", "before a checkpoint"])
def test_weights_that_are_not_finite_are_never_saved(target, tmp_path, at):
    with pytest.raises(NonFiniteError):
        trainer_that_spoils_its_weights(target, tmp_path / "run", at).run()
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-00000002"
    assert not (tmp_path / "run" / "policy").exists()


@pytest.mark.parametrize("lm", [tiny_lm(), po.TabularLM.random(("<eos>", "a", "b"), 3)])
def test_a_model_of_nan_draws_nothing(lm):
    broken = lm.in_float64() if isinstance(lm, po.CausalLM) else lm
    with torch.no_grad():
        next(iter(broken.trained_state().values())).fill_(math.nan)
    with pytest.raises(NonFiniteError, match="nothing can be drawn"):
        broken.sample([""], 4, 3, torch.Generator().manual_seed(0))


def test_a_prior_that_cannot_make_a_draw_stops_the_run(table):
    """The policy draws what the prior gives no probability: KL(policy, prior) is infinite."""
    target = po.Target(
        table, po.Reward(lambda completions, **kw: [0.0] * len(completions), 1.0), table.prompts, 3
    )
    trainer = Trainer(target, RLOO(), FitConfig(steps=2, num_samples=16), None, None)
    table.logits[:, 0, 1] = -math.inf
    with pytest.raises(NonFiniteError, match="log-prob under the prior is -inf"):
        trainer.run()
