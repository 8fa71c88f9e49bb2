"""Killed actors change nothing, and nothing is left behind by a program that is ended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from ray_jobs import digest, slow, target

import posteriori as po

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

KILLS = 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where `slow` leaves the number of its process."""
    monkeypatch.setenv("RAY_TEST_FOLDER", str(tmp_path))
    return tmp_path


def test_twenty_killed_actors_change_no_bit_of_a_thousand_prompts(folder):
    world = target(1000, slow, tokens=4)
    killed: list[int] = []
    with po.RayActors(2, rows_per_task=16) as actors:
        whole = po.sample(world, num_samples=2, seed=0, ray=actors)
        done = threading.Event()
        killer = threading.Thread(target=_kill, args=(folder, done, killed))
        killer.start()
        try:
            rounds = 0
            while len(killed) < KILLS:
                again = po.sample(world, num_samples=2, seed=0, ray=actors)
                assert digest(again) == digest(whole)
                rounds += 1
                assert rounds < 20
        finally:
            done.set()
            killer.join()
    assert len(killed) == len(set(killed)) == KILLS
    assert len(whole) == 2000


def _kill(folder: Path, done: threading.Event, killed: list[int]) -> None:
    """One actor at a time, once it has worked: its number is in the folder."""
    chance = random.Random(0)
    while len(killed) < KILLS and not done.wait(0.2):
        alive = [int(each.name) for each in folder.iterdir() if psutil.pid_exists(int(each.name))]
        alive = [each for each in alive if each not in killed]
        if alive:
            killed.append(chance.choice(alive))
            os.kill(killed[-1], signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_running_after_the_driver_was_ended(folder, number):
    driver = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ray_jobs.py"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with driver:
        try:
            _until(lambda: len(list(folder.iterdir())) == 2, 200)
            family = psutil.Process(driver.pid).children(recursive=True)
            assert any("raylet" in " ".join(each.cmdline()) for each in family)
            driver.send_signal(number)
            assert driver.wait(60) != 0
        finally:
            driver.kill()
    _until(lambda: not any(_is_running(each) for each in family), 60)


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(true, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)
