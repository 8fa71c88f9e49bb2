"""Runs on the pretended device, by name: prints one JSON document of what each found."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from typing import Any

import torch
from helpers import tiny_lm
from objective_cases import CASES
from pretend_device import DEVICE, WrongDevice, pretended

import posteriori as po

SAMPLERS: dict[str, dict[str, Any]] = {
    "importance": {},
    "rejection": {},
    "best_of_n": {},
    "soft_best_of_n": {},
    "qrs": {},
    "annealed": {},
    "mh": {"burn_in": 1},
    "imh": {"burn_in": 1},
    "power": {},
    "smc": {},
}


def worth(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(at * token % 7 for at, token in enumerate(ids, 1)) / 28 for ids in completion_ids]


def target(architecture: str = "llama", there: bool = True) -> po.Target:
    lm = tiny_lm(architecture)
    if there:
        lm = po.CausalLM(lm.model.to(DEVICE), lm.tokenizer)
    return po.Target(lm, po.Reward(worth, beta=0.3, max_reward=1.0), ["a b", "c"], 4)


def objective(name: str, there: bool) -> list[float]:
    """Two steps of its first case, and the losses."""
    made = next(case for case in CASES if case.name == name).make()
    fit = po.fit(target(there=there), made, steps=2, num_samples=4, learning_rate=1e-3, seed=0)
    return [each["loss"] for each in fit.history]


def lora(architecture: str, there: bool) -> list[float]:
    """The same with an adapter, found rate, evaluation and replayed draws."""
    fit = po.fit(
        target(architecture, there=there),
        "vargrad",
        steps=2,
        num_samples=4,
        policy="lora",
        evaluate_every=1,
        evaluate_samples=8,
        replay=1,
        seed=0,
        on_note=lambda _: None,
    )
    return [each["loss"] for each in fit.history]


def sampler(name: str, there: bool) -> list[float]:
    world = target(there=there)
    if name == "power":
        world = po.Target(world.prior, po.Power(2.0), world.prompts, world.max_new_tokens)
    draws = po.sample(world, name, 8, seed=0, **SAMPLERS[name])
    return draws.log_prior_N.cpu().tolist()


def verbs(_: str, there: bool) -> list[float]:
    world = target("llama", there=there)
    policy = po.fit(world, "rloo", steps=1, num_samples=4, learning_rate=1e-2, seed=0).policy
    report = po.evaluate(world, policy, num_samples=100, seed=0)
    curve = po.frontier(world, num_samples=100, stages=1, seed=0)
    exact = po.exact(world)
    return [
        report["kl_to_target"].value,
        report["log_z"].value,
        curve.at_beta(1.0).kl.value,
        *map(float, exact.log_z),
        *map(float, exact.evaluate(policy)["kl_to_target"]),
    ]


def mixes(_: str, there: bool) -> list[float]:
    """What has to be found."""
    device = DEVICE if there else "cpu"
    return (torch.ones(3, device=device) + torch.ones(3)).tolist()


KINDS = {
    "objective": objective,
    "lora": lora,
    "sampler": sampler,
    "verbs": verbs,
    "mixes": mixes,
}


def main(jobs: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for job in jobs:
        kind, _, name = job.partition(":")
        here = None
        try:
            if kind != "mixes":
                here = KINDS[kind](name, False)
            with pretended():
                found[job] = {"here": here, "there": KINDS[kind](name, True)}
        except WrongDevice as error:
            found[job] = {"wrong": str(error), "where": traceback.format_exc()}
        except Exception:  # told in the test that asked for it
            found[job] = {"failed": traceback.format_exc()}
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(sys.argv[1:])))
