"""What every objective must do, whichever it is: run over the table of `objective_cases`."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from helpers import OracleCase, has_c, reward, tiny_lm
from objective_cases import CASES, ObjectiveCase
from safetensors.torch import load_file

import posteriori as po
from posteriori.errors import EvidenceError, ObjectiveError
from posteriori.train.checkpoint import latest_checkpoint

BUDGET = 20_000
"""Draws that a run on the oracle may take."""

TIMES = ("seconds", "draw_seconds")
every_objective = pytest.mark.parametrize(
    "objective",
    [
        pytest.param(case, id=str(case), marks=[pytest.mark.long] if case.long else [])
        for case in CASES
    ],
)


@pytest.mark.long
@pytest.mark.parametrize(
    "at", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["case_1", "case_2"]
)
@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(case, id=str(case), marks=[pytest.mark.slow] if case.slow else [])
        for case in CASES
        if case.within
    ],
)
def test_it_ends_as_near_as_the_table_says(objective: ObjectiveCase, at):
    """`pytest -rP -m "slow or not slow" -k as_near` prints how near, after how many draws."""
    target = OracleCase(("case_1", "case_2")[at]).target(0.5)
    start = time.perf_counter()
    fitted = po.fit(target, objective.make(), **objective.fit)
    seconds = time.perf_counter() - start
    draws = sum(record["draws"] for record in fitted.history)
    assert draws <= BUDGET
    exact = po.exact(target)
    if objective.law is None:
        distance = exact.evaluate(fitted.policy)["kl_to_target"]
    else:
        log_pi = exact.log_prob(fitted.policy)
        distance = np.array([kl_from(objective.law(exact, i), p) for i, p in enumerate(log_pi)])
    limit = objective.within[at]
    near = f"{distance.max():.4f} of {limit}"
    print(f"{objective}, case {at + 1}: {near}, {draws} draws, {seconds:.0f} s")
    assert np.all(distance < limit), distance


def kl_from(log_law: torch.Tensor, log_pi: torch.Tensor) -> float:
    """KL(law, pi), where the law may leave outcomes out."""
    some = ~log_law.isneginf()
    return float((log_law[some].exp() * (log_law[some] - log_pi[some])).sum())


def short(objective: ObjectiveCase, lm=None, **settings) -> po.Fit:
    target = po.Target(lm or tiny_lm(), po.Reward(reward, beta=0.5), ["a", "c d", "e"], 3)
    settings = {
        "steps": 4,
        "num_samples": 4,
        "prompts_per_step": 2,
        "learning_rate": 1e-2,
    } | settings
    return po.fit(target, objective.make(), **settings)


def weights(fitted: po.Fit) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in fitted.policy.trained_state().values()])


@every_objective
@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_seed_gives_the_same_weights_and_another_seed_others(objective, policy):
    first = weights(short(objective, policy=policy, seed=1))
    assert torch.equal(first, weights(short(objective, policy=policy, seed=1)))
    other = short(objective, policy=policy, seed=2)
    handed_back = [finding.name for finding in other.findings] == ["no_gain"]
    assert handed_back or not torch.equal(first, weights(other))


class Stop(Exception):
    """Stands for a kill: nothing is tidied up."""


@every_objective
@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(objective, policy, tmp_path):
    replay = {"replay": 2} if objective.make().replays else {}
    settings = {"steps": 6, "checkpoint_every": 2, "policy": policy, **replay}

    def stop(record):
        if record["step"] == 4:
            raise Stop

    with pytest.raises(Stop):
        short(objective, output_dir=tmp_path / "run", on_step=stop, **settings)
    resumed = short(objective, output_dir=tmp_path / "run", resume=True, **settings)
    whole = short(objective, output_dir=tmp_path / "whole", **settings)
    assert torch.equal(weights(resumed), weights(whole))
    mine, theirs = (latest_checkpoint(tmp_path / at / "checkpoints") for at in ("run", "whole"))
    for file in ("policy.safetensors", "optimizer.pt", "others.pt"):
        assert (mine / file).read_bytes() == (theirs / file).read_bytes(), file
    for record, other in zip(resumed.history, whole.history, strict=True):
        assert {k: v for k, v in record.items() if k not in TIMES} == {
            k: v for k, v in other.items() if k not in TIMES
        }


@every_objective
def test_the_saved_policy_is_the_policy_and_loads_elsewhere(objective, tmp_path):
    fitted = short(objective, output_dir=tmp_path)
    saved = load_file(tmp_path / "policy" / "model.safetensors")
    mine = fitted.policy.trained_state()
    assert all(torch.equal(mine[name], tensor) for name, tensor in saved.items())
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["objective"] == objective.name
    assert objective.settings.items() <= about["objective_settings"].items()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


@every_objective
def test_a_table_is_trained_too(objective, table):
    target = po.Target(table, po.Reward(reward, beta=0.5), table.prompts, 3)
    before = table.logits.clone()
    fitted = po.fit(target, objective.make(), steps=3, num_samples=8, learning_rate=0.1)
    assert torch.equal(table.logits, before), "the prior is left alone"
    moved = (fitted.policy.logits - before).abs().amax((1, 2))
    assert bool((moved > 1e-3).all()), "every prompt's table has moved"


@every_objective
def test_hard_evidence_is_taken_or_refused_with_the_reason(objective):
    """ "has a c" has a probability of about a half under this prior."""
    target = po.Target(tiny_lm(), po.Constraint(has_c), ["a", "b"], 3)
    settings = {"steps": 30, "num_samples": 16, "learning_rate": 1e-2}
    if not objective.hard:
        with pytest.raises((ObjectiveError, EvidenceError), match="rules out") as caught:
            po.fit(target, objective.make(), **settings)
        assert "dpg" in caught.value.hint
        return
    fitted = po.fit(target, objective.make(), **settings)
    exact = po.exact(target)

    def share(lm) -> np.ndarray:
        return np.array(
            [
                float(log_pi.exp()[log_e == 0].sum())
                for log_pi, log_e in zip(exact.log_prob(lm), exact.log_evidence, strict=True)
            ]
        )

    assert np.all(share(fitted.policy) > 0.5 * (1 + share(target.prior))), "it has moved half way"
