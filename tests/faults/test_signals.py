"""Signals, exceptions of callbacks and too little memory: the finished steps are kept."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading

import pytest
import torch
from test_interrupted_runs import assert_same_run

import posteriori as po
from posteriori.core.run.signals import Signalled, Signals
from posteriori.errors import (
    CheckpointError,
    EvidenceError,
    MemoryLimitError,
    PosterioriError,
    StoppedError,
)
from posteriori.models.tabular import TabularLM
from posteriori.train.checkpoint import latest_checkpoint
from posteriori.train.update import Updater

pytestmark = pytest.mark.moves_rng
NAMES = ["SIGTERM", "SIGHUP", "SIGUSR1"]


def noisy(completions, **kwargs):
    """Draws from global streams before a signal comes, as users' functions do."""
    values = [text.count("a") + torch.rand(1).item() + random.random() for text in completions]
    ARMED["calls"] += 1
    if ARMED["calls"] == ARMED["at"]:
        signal.raise_signal(ARMED["number"])
    return values


ARMED: dict[str, int] = {}
"""At which call `noisy` raises which signal."""


@pytest.fixture(autouse=True)
def disarmed():
    """And Python's own answers to signals: a run under nohup, or in a shell's background, has some
    ignored, which is kept."""
    ARMED.update(calls=0, at=0, number=signal.SIGTERM)
    own = {getattr(signal, name): signal.SIG_DFL for name in NAMES}
    own[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, answer) for number, answer in own.items()}
    yield
    for number, answer in before.items():
        signal.signal(number, answer)


@pytest.fixture
def target() -> po.Target:
    table = po.TabularLM.random(["<eos>", "a", "b"], 3, ["p", "q"], seed=1)
    return po.Target(table, po.Reward(noisy, beta=1.0), table.prompts, 3)


def fit(target, run, **settings) -> po.Fit:
    torch.manual_seed(0)
    random.seed(0)
    settings = {"steps": 10, "num_samples": 4, "learning_rate": 0.1, "output_dir": run} | settings
    return po.fit(target, settings.pop("objective", "rloo"), **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_within_a_reward_leaves_the_finished_steps(target, tmp_path, name):
    """And the random streams that the step began with, so that it is made again bit for bit."""
    ARMED.update(at=7, number=getattr(signal, name))
    with pytest.raises(StoppedError, match=f"stopped by {name} after 6 of 10 steps") as caught:
        fit(target, tmp_path / "run", checkpoint_every=10)
    assert caught.value.signal_number == ARMED["number"]
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-00000006"
    assert signal.getsignal(ARMED["number"]) is signal.SIG_DFL
    fit(target, tmp_path / "run", checkpoint_every=10, resume=True)
    fit(target, tmp_path / "whole", checkpoint_every=10)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("objective", ["rloo", "ppo"])
def test_a_signal_within_an_update_waits_for_its_end(target, tmp_path, monkeypatch, objective):
    """Half an update is no good state: the step is finished, and is part of the checkpoint."""
    step, calls = torch.optim.AdamW.step, []

    def signalled(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", signalled)
    with pytest.raises(StoppedError) as caught:
        fit(target, tmp_path / "run", checkpoint_every=10, objective=objective)
    monkeypatch.undo()
    done = int(str(caught.value).split(" after ")[1].split()[0])
    newest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest.name == f"step-{done:08d}"
    assert done >= 1
    fit(target, tmp_path / "run", checkpoint_every=10, resume=True, objective=objective)
    fit(target, tmp_path / "whole", checkpoint_every=10, objective=objective)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_second_signal_does_not_disturb_the_saving(target, tmp_path, monkeypatch):
    ARMED["at"] = 7
    save = torch.save

    def signalled(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(torch, "save", save)
        return save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", signalled)
    with pytest.raises(StoppedError):
        fit(target, tmp_path / "run", checkpoint_every=10)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-00000006"


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), OSError(28, "No space left"), RuntimeError("x"), SystemExit(3)],
    ids=["ValueError", "OSError", "RuntimeError", "SystemExit"],
)
def test_an_exception_of_a_callback_leaves_the_finished_steps(target, tmp_path, error):
    def fails(record):
        if record["step"] == 6:
            raise error

    with pytest.raises(type(error)) as caught:
        fit(target, tmp_path / "run", checkpoint_every=10, on_step=fails)
    assert caught.value is error
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == "step-00000007"


def test_handlers_of_others_stay_and_threads_install_none():
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with Signals():
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]

    found = []

    def other_thread():
        with Signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def third_time(signals: Signals) -> None:
    with signals.held():
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("the third one is obeyed at once")


def test_signals_nest_and_what_hangs_is_given_up():
    with Signals() as outer:
        with Signals() as inner, pytest.raises(Signalled):
            third_time(inner)
        assert outer.raised is None
        with pytest.raises(KeyboardInterrupt), outer.held():
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_forked_child_ends_as_it_would():
    with Signals():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def test_a_forked_child_has_the_systems_own_answers_at_once():
    """A handler in Python may never run in a worker that waits: its pool would wait for ever."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
    outside = [signal.getsignal(number) for number in numbers]
    with Signals(), Signals() as inner:
        child = os.fork()
        if not child:
            same = [signal.getsignal(number) for number in numbers] == outside
            with Signals() as again:
                ours = signal.getsignal(signal.SIGTERM) == again._arrived
            back = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            os._exit(0 if same and ours and back else 1)
        _, status = os.waitpid(child, 0)
        assert signal.getsignal(signal.SIGTERM) == inner._arrived
    assert os.waitstatus_to_exitcode(status) == 0
    assert [signal.getsignal(number) for number in numbers] == outside


OUT_OF_MEMORY = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: Error code 12"),
    "Python": MemoryError,
}


def with_room_for(rows: int, make, monkeypatch) -> list[int]:
    """No more than so many rows fit into a backward pass; returns what is asked."""
    original, backward, asked, within = TabularLM.token_log_prob, Updater.backward, [], []

    def noted(self, draws, constants):
        # A table's sampler asks for the same log-probs.
        within.append(1)
        try:
            return backward(self, draws, constants)
        finally:
            within.pop()

    monkeypatch.setattr(Updater, "backward", noted)

    def token_log_prob(self, completions):
        if within:
            asked.append(len(completions))
            if len(completions) > rows:
                raise make()
        return original(self, completions)

    monkeypatch.setattr(TabularLM, "token_log_prob", token_log_prob)
    return asked


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_micro_batches(target, tmp_path, monkeypatch, kind):
    """The gradient is that of one pass, the size is remembered, and it is said once."""
    whole = fit(target, None, steps=3)
    asked = with_room_for(3, OUT_OF_MEMORY[kind], monkeypatch)
    notes = []
    run = tmp_path / "run"
    halved = fit(target, run, steps=3, on_note=notes.append, checkpoint_every=1)
    assert asked == [8, 4, *[2] * 12]
    assert [finding.name for finding in halved.findings] == ["little_memory"]
    assert len(notes) == 1
    # Of one and the same policy, in float64; Adam then enlarges what rounding there is.
    assert halved.history[0]["grad_norm"] == pytest.approx(whole.history[0]["grad_norm"], rel=1e-12)
    shutil.rmtree(latest_checkpoint(run / "checkpoints"))
    asked.clear()
    fit(target, run, steps=3, resume=True, checkpoint_every=1)
    assert asked == [2] * 4


def test_out_of_memory_for_a_single_completion_is_one_line(target, tmp_path, monkeypatch):
    with_room_for(0, OUT_OF_MEMORY["torch"], monkeypatch)
    with pytest.raises(MemoryLimitError, match="memory ran out while training"):
        fit(target, tmp_path / "run", on_note=lambda text: None)


def test_out_of_memory_while_sampling_is_one_line(target, monkeypatch):
    def none_left(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TabularLM, "sample", none_left)
    with pytest.raises(MemoryLimitError, match="memory ran out while sampling"):
        po.sample(target, "importance", 64)


WORK = {
    "evaluate": ("evaluating", lambda target: po.evaluate(target, target.prior, 20)),
    "frontier": ("drawing for the frontier", lambda target: po.frontier(target, 100)),
    "exact": ("enumerating", po.exact),
    "fit_twist": (
        "training the twist",
        lambda target: po.fit_twist(target, steps=1, num_samples=4),
    ),
    "pass_at_k": (
        "sampling",
        lambda target: po.pass_at_k(
            po.Target(target.prior, po.Constraint(lambda completions, **_: [True]), ["p"], 3),
            k=[1],
        ),
    ),
}


@pytest.mark.parametrize("name", WORK)
def test_out_of_memory_is_one_line_whatever_is_done(target, monkeypatch, name):
    def none_left(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for method in ("sample", "token_log_prob", "stepping"):
        monkeypatch.setattr(TabularLM, method, none_left)
    doing, work = WORK[name]
    with pytest.raises(MemoryLimitError, match=f"memory ran out while {doing}; set a lower"):
        work(target)


def test_a_reward_may_not_log_a_figure_of_the_run(target, tmp_path):
    def logs(completions, log_metric, **kwargs):
        log_metric("step", 77.0)
        return [0.0] * len(completions)

    table = target.prior
    with pytest.raises(EvidenceError, match="would overwrite a figure of the run"):
        fit(po.Target(table, po.Reward(logs, beta=1.0), table.prompts, 3), tmp_path / "run")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"), ("ACCELERATE_MIXED_PRECISION", "bf16")],
)
def test_accelerates_variables_change_no_gradient(target, monkeypatch, variable, value):
    from accelerate.state import AcceleratorState, GradientState

    def history() -> list[float]:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        return [line["grad_norm"] for line in fit(target, None, steps=3).history]

    plain = history()
    monkeypatch.setenv(variable, value)
    assert history() == plain
    monkeypatch.undo()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def test_a_link_in_the_run_directory_overwrites_nothing(target, tmp_path):
    """A planted link is not followed: neither by what is written whole nor by what is added to."""
    (tmp_path / "theirs").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".config.json.incoming", ".versions.json.incoming"):
        (run / name).symlink_to(tmp_path / "theirs")
    fit(target, run, steps=1)
    assert (tmp_path / "theirs").read_text() == "precious"
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PosterioriError, match="the file is a link") as caught:
        fit(target, other, steps=1)
    assert isinstance(caught.value, CheckpointError)
    assert not (tmp_path / "nowhere").exists()
