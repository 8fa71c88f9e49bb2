"""Draws, twists, frontiers, moments and reward models that are stopped at any moment and resumed:
the same bits, and nothing that was finished is done again.

The kill is an exception that is raised in place of a write, at the first, the last and some writes
between, and passes through everything; that a process that dies leaves no more than that is shown
by `test_a_killed_process`, and at large by `make test-faults`.
"""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from killed_in_place import (
    Killed,
    check_every_kill,
    count_a,
    make_target,
    same_draws,
)

import posteriori as po
from posteriori.core.journal import journal as journals
from posteriori.core.journal import pieces
from posteriori.core.journal.files import writing
from posteriori.core.journal.plain_data import DamagedError, NotPlainError, from_bytes, to_bytes
from posteriori.errors import CheckpointError, ConfigError
from posteriori.models.execution import generate as generating


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("importance", {}),
        ("rejection", {}),
        ("best_of_n", {"n": 2}),
        ("soft_best_of_n", {"n": 2}),
        ("qrs", {}),
        ("imh", {"burn_in": 3}),
        ("mh", {"burn_in": 7, "thin": 3, "block": 2}),
        ("mh", {"burn_in": 2, "thin": 3}),
        ("annealed", {}),
        ("power", {"block": 1}),
        ("smc", {"twist": "evidence"}),
    ],
)
def test_every_sampler_ends_with_the_same_bits(disk, tmp_path, sampler, settings):
    def work(journal, resume):
        return po.sample(
            make_target(), sampler, 40, seed=3, journal=journal, resume=resume, **settings
        )

    check_every_kill(disk, tmp_path, work, same_draws)


@pytest.mark.moves_rng
def test_a_language_model_and_a_noisy_reward(disk, tmp_path, case_1):
    def noisy(completion_ids, **kwargs):
        return [len(ids) + torch.rand(1).item() for ids in completion_ids]

    def work(journal, resume):
        torch.manual_seed(0)
        target = po.Target(case_1.prior(), po.Reward(noisy, beta=0.5), ["a b", "c"], 4)
        return po.sample(target, "imh", 30, seed=3, journal=journal, resume=resume, burn_in=2)

    check_every_kill(disk, tmp_path, work, same_draws)


@pytest.mark.parametrize("rows_on_resume", [7, 5])
def test_draws_of_a_language_model_are_kept_chunk_by_chunk(
    disk, tmp_path, case_1, monkeypatch, rows_on_resume
):
    """Also where another number of rows fits in memory when the run goes on."""
    rows, drawn = [7], []
    monkeypatch.setattr("posteriori.models.causal.memory.rows_for_sampling", lambda *_: rows[-1])
    whole = generating._generate_chunk
    monkeypatch.setattr(
        generating, "_generate_chunk", lambda *a: drawn.append(len(a[2])) or whole(*a)
    )

    def work(journal, resume):
        target = po.Target(case_1.prior(), po.Reward(count_a, beta=0.5), ["a b", "c"], 4)
        return po.sample(target, "importance", 10, journal=journal, resume=resume)

    plain = work(None, False)
    assert drawn == [7, 7, 6]
    disk.dies_at = 2
    with pytest.raises(Killed):
        work(tmp_path / "j", False)
    drawn.clear()
    rows.append(rows_on_resume)
    again = work(tmp_path / "j", True)
    assert drawn == ([6] if rows_on_resume == 7 else [5, 5, 5, 5])
    assert plain.completion_ids == again.completion_ids
    torch.testing.assert_close(plain.log_weight, again.log_weight, rtol=1e-6, atol=1e-6)


def test_a_twist_ends_with_the_same_bits(disk, tmp_path):
    def work(journal, resume):
        return po.fit_twist(
            make_target(),
            steps=4,
            num_samples=8,
            replay=2,
            width=2,
            journal=journal,
            resume=resume,
        )

    def same(one, other):
        assert one.history == other.history
        assert one.cost == other.cost
        state = other.twist.state_dict()
        assert all(torch.equal(each, state[name]) for name, each in one.twist.state_dict().items())

    check_every_kill(disk, tmp_path, work, same)


def test_a_frontier_ends_with_the_same_bits(disk, tmp_path):
    def work(journal, resume):
        return po.frontier(make_target(), 100, seed=2, journal=journal, resume=resume)

    def same(one, other):
        assert repr(one.points) == repr(other.points)
        assert repr([one.findings, one.best_of_n]) == repr([other.findings, other.best_of_n])

    check_every_kill(disk, tmp_path, work, same)


@pytest.mark.parametrize("settings", [{}, {"noise": 0.2, "scale": 0.5}])
def test_simulated_pairs_end_with_the_same_bits(disk, tmp_path, settings):
    """With redraws: texts that are equal or blank are no pair."""

    def work(journal, resume):
        return po.simulate_preferences(
            make_target(), 40, seed=2, journal=journal, resume=resume, **settings
        )

    def same(one, other):
        assert one == other

    check_every_kill(disk, tmp_path, work, same)
    place = tmp_path / "whole"
    for change in ({"num_pairs": 41}, {"seed": 3}, {"scale": 2.0}, {"noise": 0.1}):
        with pytest.raises(CheckpointError, match="changed"):
            po.simulate_preferences(
                make_target(),
                **{"num_pairs": 40, "seed": 2, **settings, **change},
                journal=place,
                resume=True,
            )


def test_moments_end_with_the_same_bits(disk, tmp_path):
    table = po.TabularLM.random(["<eos>", "a", "b"], 4, ["p", "q"], seed=1)

    def work(journal, resume):
        moments = po.Moments({"a": (count_a, 2.9)}, num_samples=300, method="draws")
        target = po.Target(table, moments, table.prompts, 4)
        return po.fit_moments(target, journal=journal, resume=resume)

    def same(one, other):
        assert repr(one.lambda_) == repr(other.lambda_)
        assert repr(one.findings) == repr(other.findings)
        assert one.rounds == other.rounds > 1

    check_every_kill(disk, tmp_path, work, same)


PAIRS = [
    {"prompt": prompt, "chosen": f"{word} b", "rejected": f"{word} d"}
    for prompt in ("a b", "c", "d", "e a")
    for word in "abc"
]


@pytest.mark.parametrize("settings", [{}, {"tuning": "lora", "lora": {"rank": 2}}])
def test_a_reward_model_ends_with_the_same_bits(disk, tmp_path, case_1, settings):
    def work(place, resume):
        return po.fit_reward(
            case_1.path,
            PAIRS,
            output_dir=place,
            resume=resume,
            epochs=3,
            batch_size=4,
            evaluate_every=2,
            learning_rate=1e-2,
            **settings,
        )

    def same(one, other):
        assert one.history == other.history
        assert repr(one.held_out) == repr(other.held_out)
        assert torch.equal(one.model.posterior.mean_D, other.model.posterior.mean_D)
        state = other.model.backbone.state_dict()
        for name, each in one.model.backbone.state_dict().items():
            assert torch.equal(each, state[name])
        if other.output_dir is not None:
            assert not (other.output_dir / "unfinished").exists()
            lines = (other.output_dir / "metrics.jsonl").read_text().splitlines()
            assert len(lines) == len(one.history)

    check_every_kill(disk, tmp_path, work, same, most=4)


def test_what_calls_of_evidence_have_said_is_not_forgotten(disk, tmp_path):
    def fails_on_three(completions, **kwargs):
        if any(text.count("b") > 2 for text in completions):
            raise ValueError("no")
        return count_a(completions)

    def work(journal, resume):
        target = make_target(fails_on_three, on_failure="drop")
        with pytest.warns(RuntimeWarning, match="were dropped") if not resume else _nothing():
            return po.sample(target, "importance", 300, seed=3, journal=journal, resume=resume)

    plain = work(tmp_path / "j", False)
    again = work(tmp_path / "j", True)
    same_draws(plain, again)
    assert "evidence_dropped" in [finding.name for finding in again.findings]


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_a_journal_is_refused_for_other_work(tmp_path):
    place = tmp_path / "j"
    po.sample(make_target(), "importance", 20, journal=place)
    with pytest.raises(CheckpointError, match="unfinished run has finished"):
        po.sample(make_target(), "importance", 20, journal=place)
    for change in ({"num_samples": 30}, {"seed": 1}, {"sampler": "imh"}):
        with pytest.raises(CheckpointError, match="changed"):
            po.sample(
                make_target(),
                **{"sampler": "importance", "num_samples": 20, **change},
                journal=place,
                resume=True,
            )
    with pytest.raises(CheckpointError, match="changed"):
        po.sample(make_target(lambda completions, **_: [0.0] * len(completions)), "importance", 20,
                  journal=place, resume=True)  # fmt: skip
    with pytest.raises(ConfigError, match="journal"):
        po.sample(make_target(), "importance", 20, resume=True)
    (place / "about.json").write_text("[]")
    with pytest.raises(CheckpointError, match="nothing says"):
        po.sample(make_target(), "importance", 20, journal=place, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be kept"):
        po.sample(make_target(), "importance", 20, journal=tmp_path / "file" / "j")


def test_a_damaged_piece_is_done_again(tmp_path):
    plain = po.sample(make_target(), "importance", 600, journal=tmp_path / "j")
    files = sorted((tmp_path / "j" / "pieces").glob("*.piece"))
    assert len(files) == 3
    for file, damage in zip(
        files, (lambda b: b[:-9], lambda b: b[:50], lambda b: b""), strict=True
    ):
        file.write_bytes(damage(file.read_bytes()))
        with pytest.warns(UserWarning, match="damaged"):
            again = po.sample(make_target(), "importance", 600, journal=tmp_path / "j", resume=True)
        same_draws(plain, again)


def test_a_disk_that_is_full_does_not_stop_the_work(tmp_path, monkeypatch):
    def full(path, data):
        raise CheckpointError("the file cannot be written: No space left on device")

    plain = po.sample(make_target(), "importance", 20)
    monkeypatch.setattr(pieces, "write_data", full)
    with pytest.warns(UserWarning, match="not kept on the way.*No space"):
        draws = po.sample(make_target(), "importance", 20, journal=tmp_path / "j")
    same_draws(plain, draws)


def test_two_writers(tmp_path):
    about = {"the work": "one"}
    first = journals.Journal(tmp_path / "j", about, resume=False)
    with pytest.raises(CheckpointError, match="another run is writing"):
        journals.Journal(tmp_path / "j", about, resume=True)
    first.close()
    journals.Journal(tmp_path / "j", about, resume=True).remove()
    assert not (tmp_path / "j").exists()


def test_records_hold_data_and_no_code():
    with pytest.raises(NotPlainError):
        to_bytes((count_a,))
    value = (
        1,
        2.5,
        None,
        "x",
        b"y",
        [True, {"a": torch.arange(3)[1:]}],
        (po.Estimate(1, 2, "exact", 3),),
    )
    again = from_bytes(to_bytes(value), None)
    assert repr(again) == repr(value)
    assert len(to_bytes(torch.zeros(10**6)[:2])) < 10_000
    data = bytearray(to_bytes(value))
    data[len(data) // 2] ^= 1
    with pytest.raises(DamagedError):
        from_bytes(bytes(data), None)


def test_a_killed_process(tmp_path):
    """SIGKILL while evidence is being asked; what was drawn before is not drawn again."""
    plain = po.sample(make_target(), "rejection", 60, seed=3)
    place = tmp_path / "j"
    for delay in (0.05, 0.15, 0.3):
        child = os.fork()
        if not child:
            try:
                po.sample(
                    make_target(slow_count_a),
                    "rejection",
                    60,
                    seed=3,
                    journal=place,
                    resume=True,
                )
            finally:
                os._exit(0)
        while not (place / "about.json").exists():
            time.sleep(0.005)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    again = po.sample(
        make_target(slow_count_a), "rejection", 60, seed=3, journal=place, resume=True
    )
    same_draws(plain, again)


def slow_count_a(completions, **kwargs):
    time.sleep(0.05)
    return count_a(completions)


@pytest.mark.parametrize(
    "said",
    [
        "basic_ios::clear: iostream error",
        "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0",
        "[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file",
    ],
)
def test_what_torch_says_of_a_full_disk_is_one_line(tmp_path, said):
    wanted = pytest.raises(CheckpointError, match="the checkpoint cannot be written")
    with wanted, writing("the checkpoint", tmp_path):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="a bug"), writing("the checkpoint", tmp_path):
        raise RuntimeError("a bug")
