"""What is taken where nobody says: the device, its share of memory, its random streams.

On a machine without a GPU, the modules of torch that speak for one are replaced.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_lm

import posteriori as po
from posteriori.core.journal import random_streams
from posteriori.models.device import fastest, usable_device
from posteriori.models.passes.memory import memory_for

GIB = 2**30


class Device:
    """What torch has of a kind of device, with streams that are only noted."""

    def __init__(self, count=2, there=True, started=True, free=10 * GIB):
        self.count, self.there, self.started, self.free = count, there, started, free
        self.streams = [torch.full((4,), at, dtype=torch.uint8) for at in range(count)]

    def is_available(self):
        return self.there

    def is_initialized(self):
        return self.started

    def device_count(self):
        return self.count

    def get_rng_state_all(self):
        return [each.clone() for each in self.streams]

    def set_rng_state(self, stream, at):
        self.streams[at] = stream

    def mem_get_info(self, device):
        return self.free, 2 * self.free


@pytest.fixture
def devices(monkeypatch):
    known = {"cuda": Device(), "xpu": Device(there=False)}

    def module(device):
        return known[device if isinstance(device, str) else device.type]

    monkeypatch.setattr(torch, "get_device_module", module)
    return known


def test_streams_of_devices_come_back_with_a_checkpoint(devices):
    state = random_streams.read_streams()
    assert list(state["devices"]) == ["cuda"]
    before = [each.clone() for each in devices["cuda"].streams]
    devices["cuda"].streams = [torch.zeros(4, dtype=torch.uint8) + 9 for _ in before]
    random_streams.put_streams(state)
    for one, other in zip(devices["cuda"].streams, before, strict=True):
        assert torch.equal(one, other)


def test_a_run_goes_on_where_there_are_fewer_devices_or_none(devices):
    state = random_streams.read_streams()
    devices["cuda"] = Device(count=1)
    random_streams.put_streams(state)
    devices["cuda"] = Device(there=False)
    random_streams.put_streams(state)


def test_a_device_that_was_not_used_is_not_woken_up(devices):
    devices["cuda"].started = False
    assert random_streams.read_streams()["devices"] == {}


def test_a_checkpoint_of_before_has_none(devices):
    state = random_streams.read_streams()
    del state["devices"]
    random_streams.put_streams(state)


def test_memory_is_a_share_of_what_is_free(devices):
    assert memory_for(torch.device("cuda")) == pytest.approx(4.0)
    devices["cuda"].free = 0
    assert memory_for(torch.device("cuda", 1)) > 0
    assert memory_for(torch.device("cpu")) == 1.5


def test_a_kind_of_device_that_does_not_say_gets_what_the_cpu_gets(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace())
    assert memory_for(torch.device("mps")) == 1.5


def test_a_model_has_it_unless_it_is_given_another():
    assert tiny_lm().memory_gib == po.load("tiny").memory_gib == 1.5
    assert po.load("tiny", memory_gib=0.5).memory_gib == 0.5
    assert po.CausalLM(tiny_lm().model, tiny_lm().tokenizer, memory_gib=2.0).memory_gib == 2.0


@pytest.mark.parametrize(
    ("cuda", "xpu", "expected"), [(True, True, "cuda"), (False, True, "xpu"), (False, False, "cpu")]
)
def test_a_gpu_comes_first(monkeypatch, cuda, xpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: xpu)
    assert fastest() == expected
    assert usable_device(None) == torch.device(expected)


def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "2"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert usable_device(None) == torch.device("cuda", 0)
