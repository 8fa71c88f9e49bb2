"""`benchmarks/quality.py` on a small world: its figures are right, it goes on where it was stopped,
and its verdicts follow from the cells."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import OracleCase, has_c, reward

import posteriori as po
from posteriori.samplers.independent.best_of_n_law import best_of_n_log_prob

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
BETA = 0.5

SURE = 6.5
"""Standard errors that a normal estimate passes with a chance of 1e-10, and of 1e-6 if its error is
a quarter too small, as that of 2000 draws may be."""


@pytest.fixture
def quality(monkeypatch):
    """A function that imports the command, or one of its parts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in list(sys.modules):
        if name.split(".")[0] in ("quality", "quality_cells"):
            del sys.modules[name]


def small_world(quality, **different):
    worlds = quality("quality_cells.worlds")
    case = OracleCase("case_1")
    settings = {
        "rewards": (worlds.RewardPart(lambda: reward, BETA, 4.0),),
        "judged_by": 2000,
        "draws": (24,),
        "model": str(case.path),
        **different,
    }
    return worlds.World("small", tuple(case.prompts), 4, **settings)


def run(quality, world, path, *more):
    arguments = ["--seeds", "0", "--threads", "1", "--results", str(path), *more]
    quality("quality").main(arguments, known=[world])
    return quality("quality_cells.results").read(path)


def without_seconds(rows):
    return {
        key: {name: value for name, value in row.items() if name != "seconds"}
        for key, row in rows.items()
    }


def test_a_cell_is_run_once_and_one_that_was_cut_off_is_run_again(quality, tmp_path, capsys):
    world, path = small_world(quality, judged_by=50, with_floors=True), tmp_path / "cells.jsonl"
    wanted = ["--entries", "prior", "ours, rloo", "rate 1e-3", "exact draws"]
    first = run(quality, world, path, *wanted)
    assert [key.entry for key in first] == ["prior", "ours, rloo", "rate 1e-3", "exact draws"]
    assert "no farther than the prior, 1 cells" in capsys.readouterr().out
    before = path.read_bytes()
    run(quality, world, path, *wanted)
    assert path.read_bytes() == before
    path.write_bytes(before[:-30])  # as if the run was killed while it wrote the last cell
    assert len(quality("quality_cells.results").read(path)) == 3
    assert without_seconds(run(quality, world, path, *wanted)) == without_seconds(first)
    capsys.readouterr()
    run(quality, world, path, "--table")
    table = capsys.readouterr().out
    assert all(f"| {key.entry} | " in table for key in first)


def test_a_cell_that_failed_is_in_the_file_and_is_tried_again(quality, tmp_path):
    path, answers = tmp_path / "cells.jsonl", []

    def broken(completions, **_):
        return answers or ["no number"] * len(completions)

    worlds = quality("quality_cells.worlds")
    world = small_world(quality, rewards=(worlds.RewardPart(lambda: broken, BETA),), judged_by=2)
    (row,) = run(quality, world, path, "--entries", "prior").values()
    assert row["error"].startswith("EvidenceError: ")
    answers += [1.0] * 6
    (row,) = run(quality, world, path, "--entries", "prior").values()
    assert "error" not in row
    assert row["kl"] == pytest.approx(0, abs=1e-9)


def test_the_distances_are_the_exact_ones(quality):
    judge = quality("quality_cells.judge").Judge(small_world(quality), seed=0)
    exact = po.exact(judge.target)
    prior = judge(judge.target.prior)
    expected = exact.evaluate(judge.target.prior)
    assert abs(prior["kl"] - expected["kl_to_target"].mean()) < SURE * prior["kl_error"]
    for n in (2, 8):
        found = judge.best_of(n)
        each = [
            best_of_n_log_prob(log_prior_N, log_e_N, n)
            for log_prior_N, log_e_N in zip(exact.log_prior, exact.log_evidence, strict=True)
        ]
        figures = exact._evaluate(tuple(each), 2000)
        assert abs(found["kl"] - figures["kl_to_target"].mean()) < SURE * found["kl_error"]
        assert abs(found["reward"] - figures["mean_reward"].mean()) < SURE * found["reward_error"]
        # It moves with the same sums as the distance does.
        assert abs(found["wasted"] - figures["wasted_nats"].mean()) < SURE * found["kl_error"]


def test_a_policy_that_can_break_a_constraint_is_judged_by_the_forward_divergence(quality):
    world = small_world(quality, rewards=(), constraint=has_c)
    judge = quality("quality_cells.judge").Judge(world, seed=0)
    exact = po.exact(judge.target)
    # KL(p*, prior) = -log Z, and that of best-of-n is -log of the chance that one of n satisfies.
    satisfied = judge(judge.target.prior)
    assert abs(satisfied["kl"] + exact.log_z.mean()) < SURE * satisfied["kl_error"]
    found = judge.best_of(4)
    expected = -np.log1p(-((-np.expm1(exact.log_z)) ** 4))
    assert abs(found["kl"] - expected.mean()) < SURE * found["kl_error"]
    entries = {e.name for e in quality("quality_cells.entries").entries() if e.draws_in(world)}
    assert "ours, dpg" in entries
    assert not {"ours, rloo", "TRL rloo, 1e-4"} & entries


def test_the_verdicts_follow_from_the_cells(quality):
    entries = quality("quality_cells.entries").entries()
    results, table = quality("quality_cells.results"), quality("quality_cells.table")
    world = small_world(quality)

    def verdict(ours: float) -> str:
        distances = {
            "prior": (0, 1.0),
            "ours, rloo": (24, ours),
            "rate 1e-4": (24, 0.5),
            "rate 1e-3": (24, 3.0),
            "TRL grpo, 1e-4": (24, 0.9),
        }
        rows = {
            results.Key("small", name, draws, 0): {
                "kl": kl, "kl_error": 0.01, "wasted": 0.1, "spent": 0.6, "reward": 0.0,
            }
            for name, (draws, kl) in distances.items()
        }  # fmt: skip
        return table.summary(table.Cells(rows, [world], entries))

    good = verdict(0.44)
    assert "no farther than the prior, 1 cells: holds" in good
    assert "0.440 / 0.500 = 0.88 (rate 1e-4): holds" in good
    assert "0.440 / 0.900 = 0.49 (TRL grpo, 1e-4): holds" in good
    assert "24 draws: 0.17: holds" in good
    bad = verdict(1.03)
    assert "seed 0: +0.030 nats" in bad
    assert bad.count("does not hold") == 3
    # Two standard errors of the difference are 0.028 nats.
    assert "no farther than the prior, 1 cells: holds" in verdict(1.02)


@pytest.mark.moves_rng
@pytest.mark.filterwarnings("ignore")  # of the trainers, about themselves and what they import
@pytest.mark.parametrize(("policy", "rate"), [("full", 3e-3), ("lora", 1e-2)])
def test_trls_trainers_go_for_the_same_target(quality, policy, rate):
    pytest.importorskip("trl")
    worlds, theirs = quality("quality_cells.worlds"), quality("quality_cells.theirs")
    # Two rewards that add up to the same evidence only if their own betas count.
    parts = (
        worlds.RewardPart(lambda: reward, 2 * BETA),
        worlds.RewardPart(lambda: twice, 4 * BETA),
    )
    # TRL counts the padding of shorter prompts among GPT-2's positions; these are of one length.
    world = worlds.World(
        "small", ("a b", "c d", "e a"), 4, parts, model=str(OracleCase("case_1").path),
        num_samples=16, policy=policy,
    )  # fmt: skip
    exact = po.exact(world.target())
    trained, _ = theirs.train(world, "rloo", rate, steps=40, seed=0)
    before = exact.evaluate(exact.target.prior)["kl_to_target"].mean()
    assert exact.evaluate(trained)["kl_to_target"].mean() < before / 4


def twice(completion_ids, **kwargs):
    return [2 * each for each in reward(completion_ids)]
