"""`posteriori twist`: a twist into a file, which `sample` then steers by."""

from __future__ import annotations

import pytest
import torch

from posteriori.samplers.smc import fit_twist as module
from posteriori.samplers.smc.twist_head import TwistHead

SHORT = ["--steps", "3", "--num-samples", "16"]


def run_twist(job, *arguments):
    return job.run("twist", str(job.config), *arguments)


def weights(path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in TwistHead.load(path).parameters()])


def test_what_it_learned_steers_smc(job):
    out = job.folder / "twist.safetensors"
    result = run_twist(job, "-o", str(out), *SHORT)
    assert result.code == 0, result.err
    assert "effective share of SMC's particles" in result.out
    assert result.err.endswith("\ntwist\n")
    job.change(
        "[evaluate]",
        '[sample]\nsampler = "smc"\nsettings = { twist = "twist.safetensors" }\n\n[evaluate]',
    )
    draws = job.sample("-o", str(job.folder / "draws.jsonl"), "--num-samples", "8", "--json")
    assert draws.code == 0, draws.err
    assert draws.json["guarantee"] == "properly_weighted"


def test_settings_come_from_the_config_and_the_command_line(job, tmp_path):
    job.change("[evaluate]", "[twist]\nsteps = 2\nnum_samples = 8\n\n[evaluate]")
    said, seeded = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run_twist(job, "-o", str(said), "--json", "-q").json["steps"] == 2
    again = run_twist(job, "-o", str(seeded), "--json", "-q", "--steps", "1", "--seed", "5")
    assert again.json["steps"] == 1
    assert not torch.equal(weights(said), weights(seeded))


def test_it_goes_on_from_another_twist(job, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run_twist(job, "-o", str(first), "-q", *SHORT).code == 0
    held_fast = ["--set", "twist.ridge=1e9", "--set", "twist.updates=1"]
    assert run_twist(job, "-o", str(second), "-q", "--start", str(first), *held_fast).code == 0
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=1e-5)


def test_an_interrupted_run_keeps_what_it_has_learned(job, tmp_path, monkeypatch):
    lessons, calls = module.twist_batches_of, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return lessons(*arguments)

    monkeypatch.setattr(module, "twist_batches_of", interrupted)
    out = tmp_path / "twist.safetensors"
    result = run_twist(job, "-o", str(out), "-q", "--steps", "9")
    assert result.code == 130
    assert result.error == (
        f"interrupted after 2 of 9 steps; the twist so far is in '{out}': go on from it with "
        "--start"
    )
    assert TwistHead.load(out).of_token.weight.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "twist.pt"], "--output: the twist cannot go to 'twist.pt'; name a .safetensors"),
        (["-o", "nowhere/t.safetensors"], "there is no directory 'nowhere'; make it first"),
        (["-o", "t.safetensors", "--set", "twist.stepz=3"], "unknown key 'twist.stepz'"),
        (["-o", "t.safetensors", "--start", "no.safetensors"], "there is no twist at 'no.safe"),
    ],
)
def test_wrong_use_is_told_before_anything_loads(
    job, nothing_loads, monkeypatch, arguments, message
):
    monkeypatch.chdir(job.folder)
    result = run_twist(job, *arguments)
    assert result.code == 2
    assert message in result.error
