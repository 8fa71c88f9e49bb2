"""Weights that are cut over processes by FSDP2: the same run as one process makes."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft import PeftModel
from processes import furthest, results_of
from transformers import AutoModelForCausalLM

import posteriori as po
from posteriori.errors import ConfigError, DistributedError
from posteriori.models.load import BUNDLED
from posteriori.models.transformers_loading import loading

FIRST_GRADIENT, WEIGHTS, FIGURES = 1e-5, 5e-5, 1e-4


def _plain(place):
    with loading():
        return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return results_of(1, tmp_path_factory.mktemp("one"), "sharded")[0]["sharded"]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return folder, [each["sharded"] for each in results_of(request.param, folder, "sharded")]


@pytest.mark.long
@pytest.mark.parametrize("run", ["full", "lora", "small", "soft_q"])
def test_a_sharded_run_is_that_of_one_process(run, one, several):
    """With micro-batches of one draw ("small") processes have other numbers of passes to make."""
    for found in (each[run] for each in several[1]):
        assert found["is cut"]
        assert not one[run]["is cut"]
        assert len(found["gradients"]) == len(one[run]["gradients"]) > 0
        first, also = one[run]["gradients"][0], found["gradients"][0]
        assert max(float(each.abs().max()) for each in first.values()) > 1e-3
        assert furthest(first, also) < FIRST_GRADIENT
        assert furthest(one[run]["weights"], found["weights"]) < WEIGHTS
        for part in ("records", "findings", "evaluate"):
            assert furthest(one[run][part], found[part]) < FIGURES, part


@pytest.mark.long
@pytest.mark.parametrize("run", ["full", "lora"])
def test_what_was_sharded_is_saved_as_plain_transformers_loads_it(run, one, several):
    """Of a prior that has no path of its own the whole model, the adapter folded in."""
    folder, results = several
    plain = _plain(folder / run)
    lm = po.load(folder / run)
    ids = torch.tensor([[3, 4, 5, 3]])
    assert torch.equal(plain(ids).logits, lm.model(ids).logits)
    if run == "full":
        weights = dict(plain.named_parameters())
        assert furthest(results[0][run]["weights"], {n: p.data for n, p in weights.items()}) == 0


@pytest.mark.long
@pytest.mark.moves_rng
def test_an_adapter_that_was_sharded_is_saved_as_peft_loads_it(one, several):
    folder, results = several
    assert all(furthest(one["adapter"], each["adapter"]) < WEIGHTS for each in results)
    lm = po.load(folder / "adapter")
    with torch.no_grad():
        found = lm.log_prob(lm.completions(["The"], [[5, 6, 7]])).tolist()
    assert furthest(found, results[0]["adapter"]) < 1e-5
    adapted = PeftModel.from_pretrained(_plain(BUNDLED["tiny"]), str(folder / "adapter"))
    ids = torch.tensor([[4, 5, 6]])
    assert torch.allclose(adapted(ids).logits, lm.model(ids).logits, atol=1e-5)
    with adapted.disable_adapter():
        assert not torch.allclose(adapted(ids).logits, lm.model(ids).logits, atol=1e-3)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    return results_of(1, place, "kept_sharded", JOB_STOP="9")[0]["kept_sharded"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A sharded run of two processes, two of whose four steps are done."""
    place = tmp_path_factory.mktemp("stopped")
    found = results_of(2, place, "kept_sharded", JOB_STOP="2")
    assert [each["kept_sharded"] for each in found] == [{"seen": [0, 1]}] * 2
    return place


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_sharded_checkpoint_is_taken_up_by_any_number_of_processes(
    size, stopped, never_stopped, tmp_path
):
    shutil.copytree(stopped / "run", tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert (newest / "sharded" / ".metadata").exists()
    assert not (newest / "policy.safetensors").exists()
    for result in results_of(size, tmp_path, "kept_sharded", JOB_STOP="9"):
        found = result["kept_sharded"]
        assert found["seen"] == [2, 3]
        assert found["saved"]
        assert furthest(never_stopped["weights"], found["weights"]) < WEIGHTS
        assert furthest(never_stopped["records"], found["records"]) < FIGURES


@pytest.mark.long
def test_a_sharded_checkpoint_that_is_damaged_is_set_aside(stopped, never_stopped, tmp_path):
    """The run goes on from the one before it."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000002"
    part = max((newest / "sharded").iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    for result in results_of(2, tmp_path, "kept_sharded", JOB_STOP="9"):
        found = result["kept_sharded"]
        assert found["seen"] == [1, 2, 3]
        assert any("damaged" in each for each in found["findings"])
        assert furthest(never_stopped["weights"], found["weights"]) < WEIGHTS


@pytest.mark.long
def test_accelerate_launch_says_that_a_run_is_sharded(tmp_path):
    """By what it leaves in the environment, its settings included."""
    alone = results_of(1, tmp_path / "one", "launched")[0]["launched"]
    told = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
    }
    told |= {"FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "false"}
    told["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    for result in results_of(2, tmp_path / "two", "launched", **told):
        found = result["launched"]
        assert found["is cut"]
        assert furthest(alone["gradients"][0], found["gradients"][0]) < FIRST_GRADIENT
        assert furthest(alone["weights"], found["weights"]) < WEIGHTS


def test_one_process_has_nothing_to_cut_weights_over():
    target = po.Target(po.load("tiny"), [po.Reward(lambda **_: [0.0], beta=1.0)], ["The"], 2)
    with pytest.raises(DistributedError, match="over processes, and there is one"):
        po.fit(target, "rloo", steps=1, sharding="fsdp")


def test_another_kind_of_sharding_is_refused():
    with pytest.raises(ConfigError, match="sharding"):
        po.FitConfig(steps=1, sharding="zero3")
