"""A pretraining mix: its gradient beside any objective's, where the sum ends, and the record."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import tiny_lm
from simplex import minimum, pull
from torch import Tensor

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.seeds import generator
from posteriori.core.settings.training import FitConfig
from posteriori.errors import CheckpointError, ConfigError, DataError
from posteriori.objectives.policy_gradient.rloo import RLOO
from posteriori.objectives.preference.dpo import DPO
from posteriori.train.trainer import Trainer


def likes_b(completions, **_):
    return [float(text.count("b")) for text in completions]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(likes_b, beta=1.0), table.prompts, 3)


ROWS = [
    {"prompt": "x", "completion": [1, 0]},
    {"prompt": "x", "completion": [2, 1, 0]},
    {"prompt": "y", "completion": [3, 3, 3]},
    {"prompt": "y", "completion": [0]},
]


def gradient(target: po.Target, objective, settings: dict) -> tuple[Tensor, Trainer]:
    made = FitConfig(steps=1, num_samples=6, **settings)
    trainer = Trainer(target, objective, made, None, None)
    fresh = draw(target, trainer.policy, 6, generator(0))
    constants = objective.weigh(fresh, fresh.log_proposal_N)
    trainer.updater.backward(fresh, constants)
    return torch.cat([p.grad.flatten() for p in trainer.updater.parameters]), trainer


@pytest.mark.parametrize("micro_batch_size", [None, 1, 3])
@pytest.mark.parametrize("kind", [RLOO, DPO])
def test_the_mix_adds_its_own_gradient_and_nothing_else(target, table, kind, micro_batch_size):
    settings = {"micro_batch_size": micro_batch_size}
    without, _ = gradient(target, kind(), settings)
    mix = {"data": ROWS, "weight": 0.7, "rows_per_step": 4}
    both, trainer = gradient(target, kind(), settings | {"ptx": mix})
    batch = table.completions([r["prompt"] for r in ROWS], [r["completion"] for r in ROWS], 3)
    lm = po.TabularLM(table.logits.detach().clone(), table.prompts, table.vocabulary)
    lm.requires_grad_(True)
    loss = -lm.log_prob(batch).mean()
    (expected,) = torch.autograd.grad(loss, [lm.logits])
    torch.testing.assert_close(both - without, 0.7 * expected.flatten(), rtol=0, atol=1e-10)
    assert trainer.updater._of_mix["ptx_loss"] == pytest.approx(float(loss.detach()))


def between(exact, data: list[Tensor], weight: float) -> list[Tensor]:
    """The minimum of KL(pi, p*) + weight KL(data, pi) of each prompt, by Newton's method."""
    found = []
    for star_N, data_N in zip(exact.log_posterior, data, strict=True):

        def loss(log_pi_N: Tensor, star_N=star_N, data_N=data_N) -> Tensor:
            kl = (log_pi_N.exp() * (log_pi_N - star_N)).sum()
            return kl - weight * (data_N * log_pi_N).sum()

        log_pi_N = minimum(loss, star_N)
        assert float(pull(loss, log_pi_N).abs().max()) < 1e-9
        found.append(log_pi_N)
    return found


def laws(exact) -> list[Tensor]:
    found = []
    for prompt, outcomes in zip(exact.target.prompts, exact.outcomes, strict=True):
        mine = [tuple(row["completion"]) for row in ROWS if row["prompt"] == prompt]
        counts = [mine.count(tuple(ids)) for ids in outcomes.completion_ids]
        found.append(torch.tensor(counts, dtype=torch.float64) / len(mine))
    return found


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_the_run_ends_where_the_docstring_says(target, weight):
    """pi (log pi/p* + m) = weight x data; the run within 0.03 nats of it, and the target is not."""
    exact = po.exact(target)
    data = laws(exact)
    wanted = between(exact, data, weight)
    for star_N, data_N, log_pi_N in zip(exact.log_posterior, data, wanted, strict=True):
        m_N = weight * data_N / log_pi_N.exp() - (log_pi_N - star_N)
        torch.testing.assert_close(m_N, m_N.mean().expand_as(m_N), rtol=0, atol=1e-7)
    # Each prompt has half of the rows, and the loop means over prompts: the weights are the same.
    mix = {"data": ROWS, "weight": weight, "rows_per_step": 4}
    settings = {"steps": 200, "num_samples": 48, "learning_rate": 0.05}
    fit = po.fit(target, "rloo", ptx=mix, **settings)
    log_pi = exact.log_prob(fit.policy)
    off = [float((p.exp() * (p - q)).sum()) for p, q in zip(log_pi, wanted, strict=True)]
    away = [
        float((q.exp() * (q - s)).sum()) for q, s in zip(wanted, exact.log_posterior, strict=True)
    ]
    assert max(off) < 0.03, off
    assert min(away) > 0.05
    assert fit.history[-1]["ptx_loss"] < fit.history[0]["ptx_loss"]


def test_a_policy_is_not_handed_back_for_being_nearer_to_the_target(target):
    mix = {"data": ROWS, "weight": 20.0, "rows_per_step": 4}
    fit = po.fit(target, "rloo", ptx=mix, steps=60, num_samples=16, learning_rate=0.1)
    assert not {each.name for each in fit.findings} & {"no_gain", "past_the_best"}
    exact = po.exact(target).evaluate(fit.policy)
    assert np.all(exact["kl_to_target"] > 0.5)


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_stopped_run_ends_with_the_same_weights_and_refuses_other_rows(tmp_path, policy):
    file = tmp_path / "mix.jsonl"
    rows = [{"prompt": "a", "completion": f" {word}"} for word in ("b", "d", "c")]
    target = po.Target(tiny_lm(), po.Reward(likes_b, beta=1.0), ["a", "c d"], 3)
    mix = {"data": str(file), "rows_per_step": 2}
    settings = {"steps": 5, "num_samples": 4, "learning_rate": 1e-2, "policy": policy, "ptx": mix}

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 2:
            raise Stop

    def write(some) -> None:
        file.write_text("".join(json.dumps(row) + "\n" for row in some))

    write(rows)
    place = tmp_path / "run"
    with pytest.raises(Stop):
        po.fit(target, "rloo", output_dir=place, on_step=stop, **settings)
    write(rows[1:])
    with pytest.raises(CheckpointError, match="rows of ptx are not those"):
        po.fit(target, "rloo", output_dir=place, resume=True, **settings)
    write(rows)
    resumed = po.fit(target, "rloo", output_dir=place, resume=True, **settings)
    whole = po.fit(target, "rloo", **settings)
    for name, tensor in whole.policy.trained_state().items():
        assert torch.equal(tensor, resumed.policy.trained_state()[name]), name


def test_what_is_wrong_is_said(target):
    settings = {"steps": 1, "num_samples": 4}
    with pytest.raises(ConfigError, match="weight"):
        po.fit(target, "rloo", ptx={"data": ROWS, "weight": -1.0}, **settings)
    with pytest.raises(DataError, match="no completion"):
        po.fit(target, "rloo", ptx={"data": [{"prompt": "x"}]}, **settings)
