"""A policy that TRL trained, judged by the command line: its true distance and wasted nats."""

from __future__ import annotations

import json
import math

import pytest
import torch
from trl_trainers import BETA, QUIETLY, trainer_of

import posteriori as po
from posteriori.cli.main import run

pytestmark = QUIETLY

SURE = 5.5
"""Standard errors that one of 8 normal estimates passes with a chance of 3e-7."""

CONFIG = """\
prompts = {prompts}
max_new_tokens = 4

[prior]
path = "{prior}"

[[evidence]]
kind = "reward"
function = "my_reward.py:score"
beta = 0.5
"""

REWARD = """\
def score(completion_ids, **kwargs):
    return [sum((t == 2) - 0.5 * (t == 4) for t in y) + 0.3 * (y[-1] == 0) for y in completion_ids]
"""


@pytest.mark.parametrize("steps", [5, pytest.param(400, marks=pytest.mark.slow)])
def test_its_distance_and_what_it_wasted_are_found(steps, case_1, tmp_path, capfd):
    folder = tmp_path / "trained"
    torch.manual_seed(0)
    saving = {"save_strategy": "steps", "save_steps": steps}
    trainer_of("grpo", case_1, folder, steps, **saving).train()
    policy = folder / f"checkpoint-{steps}"
    exact = po.exact(case_1.target(BETA)).evaluate(po.load(policy))
    (tmp_path / "my_reward.py").write_text(REWARD)
    config = CONFIG.format(prompts=json.dumps(case_1.prompts), prior=case_1.path)
    (tmp_path / "run.toml").write_text(config)
    capfd.readouterr()
    arguments = [str(tmp_path / "run.toml"), str(policy), "--num-samples", "4000", "--json", "-q"]
    assert run(["evaluate", *arguments]) == 0
    figures = json.loads(capfd.readouterr().out)["policies"][str(policy)]["figures"]
    for name in ("kl_to_target", "wasted_nats"):
        found = figures[name]
        assert abs(found["value"] - exact[name].mean()) < SURE * found["standard_error"]
        assert found["standard_error"] < 0.05
    for found, value in zip(
        figures["kl_to_target"]["per_prompt"], exact["kl_to_target"], strict=True
    ):
        assert abs(found["value"] - value) < SURE * found["standard_error"]
    found, value = figures["effective_beta"], exact["effective_beta"][0]
    assert math.isfinite(value)
    assert abs(found["value"] - value) < SURE * found["standard_error"]
    if steps == 400:
        # Where its optimum is there is nothing of either: it stops on the way.
        assert 0.03 < exact["wasted_nats"].mean() <= exact["kl_to_target"].mean() < 0.3
