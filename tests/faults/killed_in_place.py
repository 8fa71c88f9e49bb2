"""A kill in place of a write, and what a run that was killed and resumed has to be like."""

from __future__ import annotations

import pytest
import torch

import posteriori as po


class Killed(BaseException):
    pass


def count_a(completions, **kwargs):
    return [float(text.count("a")) for text in completions]


def make_target(fn=count_a, **settings) -> po.Target:
    table = po.TabularLM.random(["<eos>", "a", "b"], 4, ["p", "q"], seed=1)
    reward = po.Reward(fn, beta=1.0, max_reward=4.0, **settings)
    return po.Target(table, reward, table.prompts, 4)


def check_every_kill(disk, tmp_path, work, same, most=5):
    """`work(journal, resume)`, killed at its first and last writes and some between, gives what it
    gives without a journal, in the sense of `same`."""
    plain = work(None, False)
    same(plain, work(tmp_path / "whole", False))
    number = disk.written
    assert number > 0
    moments = {round(at * (number - 1) / (most - 1)) for at in range(most)}
    for moment in sorted(moments):
        place = tmp_path / f"killed at {moment}"
        disk.written, disk.dies_at = 0, moment
        with pytest.raises(Killed):
            work(place, False)
        disk.written = 0
        same(plain, work(place, True))
        assert disk.written <= number - moment


def same_draws(one: po.Draws, other: po.Draws) -> None:
    assert one.completion_ids == other.completion_ids
    for name in ("log_proposal_N", "log_prior_N", "log_evidence_N", "reward_N", "log_weight"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert repr([one.log_z, one.figures, one.findings]) == repr(
        [other.log_z, other.figures, other.findings]
    )
    assert one.cost.lm_tokens == other.cost.lm_tokens
    assert one.cost.evidence_calls == other.cost.evidence_calls
