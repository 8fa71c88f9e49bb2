"""Is it right on this GPU, and how fast? In under ten minutes, with nothing to download.

    python benchmarks/gpu.py [--device cuda] [--model PATH] [--small] [--json figures.json]

First it is checked against the CPU: log Z and KL by enumeration, log-probs of ragged batches, a fit
that comes nearer to its target, and a run that is stopped and resumed. Then a model (random weights
in the shape of SmolLM2-135M, or `--model`) draws, scores and trains: tokens per second, seconds per
step, memory, and which share of the memory's bandwidth decoding reaches. `--small` does all of it
with models of a few thousand weights, as the tests do on the CPU. The exit code is 1 where a check
fails.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import prompts, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import posteriori as po
from posteriori.models.device import fastest

FLOAT32 = 1e-3
"""Nats by which a completion's log-prob may differ between devices, in float32."""

SURE = 5.5
"""Standard errors of an estimate from its exact value: a chance of 4e-8."""


class Sizes(NamedTuple):
    """What is measured: a model's shape, decode batches, and a step's draws."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    decode_tokens: int
    batches: tuple[int, ...]
    step_prompts: int
    step_draws: int
    step_tokens: int
    steps: int
    copied: int
    """Bytes that are copied to find the memory's bandwidth."""


SMOLLM2 = Sizes(576, 30, 9, 3, 49_152, 128, (1, 8, 64, 256), 8, 16, 128, 6, 2**30)
SMALL = Sizes(32, 2, 4, 2, 500, 6, (1, 4), 2, 4, 5, 3, 2**22)


def llama(tokens: int, sizes: Sizes = SMALL, seed: int = 0) -> LlamaForCausalLM:
    """Random weights; wide logits, so that no distribution is nearly uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=tokens,
            hidden_size=sizes.hidden,
            intermediate_size=(8 * sizes.hidden // 3 + 31) // 32 * 32,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads,
            max_position_embeddings=2048,
            bos_token_id=3,
            eos_token_id=0,
            pad_token_id=1,
            initializer_range=0.08,
        )
        return LlamaForCausalLM(config).eval()


def on(device: torch.device, tokens: int, **settings: Any) -> po.CausalLM:
    """The same tiny model there; `in_float64` is possible on either."""
    model: Any = llama(tokens, **settings)
    return po.CausalLM(model.to(device), tokenizer(tokens))


def first_word(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(ids[0] == 5) - 0.5 * (len(ids) == 1) for ids in completion_ids]


def world(lm: po.CausalLM, asked: list[str]) -> po.Target:
    return po.Target(lm, po.Reward(first_word, beta=0.5), asked, 3)


# Checks: each returns what was found, in words, and raises AssertionError.


def enumeration(device: torch.device) -> str:
    """log Z of a space of 156 completions, enumerated there and on the CPU; and by draws."""
    asked = ["w0 w1", "w2"]
    here, there = (world(on(each, 6), asked) for each in (torch.device("cpu"), device))
    exact, also = po.exact(here), po.exact(there)
    gap = float(abs(exact.log_z - also.log_z).max())
    assert gap < 1e-4, f"log Z differs by {gap:.2g} nats"
    draws = po.sample(there, "importance", 4000, seed=0)
    assert draws.log_z is not None
    off = abs(draws.log_z.value - float(exact.log_z.mean())) / draws.log_z.standard_error
    assert off < SURE, f"log Z of 4,000 draws is off by {off:.1f} standard errors"
    return f"log Z exact to {gap:.1e} nats, drawn to {off:.1f} standard errors"


def log_probs(device: torch.device) -> str:
    """Log-probs of a ragged batch: those of drawing, of scoring, and of scoring on the CPU."""
    here, there = on(torch.device("cpu"), 100), on(device, 100)
    drawn = there.sample(prompts(7), 9, 12, torch.Generator().manual_seed(0))
    scored = there.log_prob(drawn).detach().cpu()
    assert drawn.log_prob_N is not None
    ids = drawn.completion_ids
    batch = here.completions(drawn.prompts, ids, 12)
    by_cpu = here.log_prob(batch).detach()
    gaps = [float((scored - other.cpu()).abs().max()) for other in (drawn.log_prob_N, by_cpu)]
    assert max(gaps) < FLOAT32, f"log-probs differ by {max(gaps):.2g} nats"
    return f"drawn and scored agree to {gaps[0]:.1e} nats, with the CPU to {gaps[1]:.1e}"


def training(device: torch.device) -> str:
    """KL(pi, p*), exact, before a fit and after, full and LoRA."""
    target = world(on(device, 6), ["w0 w1"])
    exact = po.exact(target)
    found = [float(exact.evaluate(target.prior)["kl_to_target"].mean())]
    for policy, rate in (("full", 3e-3), ("lora", 1e-2)):
        fit = po.fit(
            target,
            "rloo",
            steps=40,
            num_samples=32,
            learning_rate=rate,
            policy=policy,
            seed=0,
            on_note=lambda _: None,
        )
        found.append(float(exact.evaluate(fit.policy)["kl_to_target"].mean()))
        assert found[-1] < found[0] / 2, f"{policy}: KL was {found[0]:.3f} and is {found[-1]:.3f}"
    return f"KL(pi, p*) from {found[0]:.3f} to {found[1]:.3f} nats (full), {found[2]:.3f} (LoRA)"


def resuming(device: torch.device) -> str:
    """A run that is stopped after three of six steps and goes on, beside one that is not."""
    target = world(on(device, 6), ["w0 w1", "w2"])

    def run(folder: Path, stop_at: int | None, resume: bool) -> po.Fit:
        def watch(record: dict[str, Any]) -> None:
            if record["step"] + 1 == stop_at:
                raise KeyboardInterrupt

        return po.fit(
            target,
            "rloo",
            steps=6,
            num_samples=8,
            learning_rate=1e-3,
            seed=0,
            output_dir=folder,
            resume=resume,
            on_step=watch,
            on_note=lambda _: None,
        )

    with tempfile.TemporaryDirectory() as place:
        whole = run(Path(place, "whole"), None, False)
        try:
            run(Path(place, "parts"), 3, False)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("the run was not stopped")
        resumed = run(Path(place, "parts"), None, True)
    assert [each["step"] for each in resumed.history] == list(range(6)), "steps are missing"
    pairs = zip(
        whole.policy.trained_state().values(), resumed.policy.trained_state().values(), strict=True
    )
    gap = max(float((one - other).abs().max()) for one, other in pairs)
    # AdamW makes a whole step of a gradient that is rounding alone, and sums on a GPU vary.
    assert gap < (1e-12 if device.type == "cpu" else 6e-3), f"weights differ by {gap:.2g}"
    return f"weights to {gap:.1e} of the run that was not stopped"


CHECKS: dict[str, Callable[[torch.device], str]] = {
    "enumeration": enumeration,
    "log-probs": log_probs,
    "training": training,
    "resuming": resuming,
}


# Measurements.


def wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


@contextmanager
def peak(device: torch.device) -> Iterator[list[float]]:
    """GiB at the most, of the device, or of the process so far."""
    found = [math.nan]
    module: Any = torch.get_device_module(device)
    if device.type != "cpu":
        module.reset_peak_memory_stats(device)
    yield found
    if device.type != "cpu":
        found[0] = module.max_memory_allocated(device) / 2**30
    else:
        found[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds(device: torch.device, work: Callable[[], object], rounds: int = 3) -> float:
    """The median, after a first time that is not counted."""
    work()
    times = []
    for _ in range(rounds):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    goal = torch.empty_like(source)
    return 2 * size / seconds(device, lambda: goal.copy_(source), 5)


def decoding(lm: po.CausalLM, sizes: Sizes, of_memory: float) -> Iterator[dict[str, Any]]:
    """Every token of a batch reads all weights once, and each row's keys and values so far."""
    device, model, tokens = lm.device, lm.model, sizes.decode_tokens
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    config: Any = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    cache *= next(model.parameters()).element_size()
    asked = [" ".join(f"w{i}" for i in range(8))]
    for rows in sizes.batches:

        def draw(rows: int = rows) -> None:
            lm.sample(asked, rows, tokens, torch.Generator().manual_seed(0))

        with peak(device) as most:
            took = seconds(device, draw)
        drawn = lm.sample(asked, rows, tokens, torch.Generator().manual_seed(0))
        number = int(drawn.lengths_N.sum())
        longest = int(drawn.lengths_N.max())
        read = longest * weights + number * cache * longest / 2
        yield {
            "what": f"decode, {rows} rows",
            "seconds": took,
            "tokens_per_second": number / took,
            "bandwidth_share": read / took / of_memory,
            "peak_gib": most[0],
        }


def scoring(lm: po.CausalLM, sizes: Sizes) -> dict[str, Any]:
    rows = sizes.step_prompts * sizes.step_draws
    ids = [[4 + (row + at) % 90 for at in range(sizes.step_tokens)] for row in range(rows)]
    batch = lm.completions(["w0 w1 w2"] * rows, ids, sizes.step_tokens)

    def score() -> None:
        with torch.no_grad():
            lm.log_prob(batch)

    with peak(lm.device) as most:
        took = seconds(lm.device, score)
    number = rows * sizes.step_tokens
    return {
        "what": f"score, {rows} rows",
        "seconds": took,
        "tokens_per_second": number / took,
        "peak_gib": most[0],
    }


def step(lm: po.CausalLM, sizes: Sizes, policy: str) -> dict[str, Any]:
    target = po.Target(
        lm, po.Reward(first_word, beta=0.5), prompts(sizes.step_prompts), sizes.step_tokens
    )
    with peak(lm.device) as most:
        fit = po.fit(
            target,
            "rloo",
            steps=sizes.steps,
            num_samples=sizes.step_draws,
            learning_rate=1e-5,
            policy=policy,
            seed=0,
            on_note=lambda _: None,
        )
    later = fit.history[1:]
    took = statistics.median(each["seconds"] for each in later)
    return {
        "what": f"step of rloo, {policy}",
        "seconds": took,
        "tokens_per_second": statistics.median(e["lm_tokens"] / e["seconds"] for e in later),
        "peak_gib": most[0],
    }


def measured(device: torch.device, sizes: Sizes, path: str | None) -> Iterator[dict[str, Any]]:
    of_memory = bandwidth(device, sizes.copied)
    yield {"what": "memory, GB/s", "seconds": math.nan, "bandwidth": of_memory / 1e9}
    if path is None:
        # So that rows last: nothing in random weights says when to end.
        model: Any = llama(sizes.vocabulary, sizes)
        if device.type != "cpu":
            model = model.to(torch.bfloat16)
        lm = po.CausalLM(model.to(device), tokenizer(sizes.vocabulary))
    else:
        lm = po.load(path, device=device)
    yield from decoding(lm, sizes, of_memory)
    yield scoring(lm, sizes)
    for policy in ("lora", "full"):
        yield step(lm, sizes, policy)


def shown(row: dict[str, Any]) -> str:
    if "bandwidth" in row:
        return f"{row['what']:26} {row['bandwidth']:.4g}"
    share = f"{row['bandwidth_share']:9.0%}" if "bandwidth_share" in row else " " * 9
    return (
        f"{row['what']:26} {row['seconds']:10.4f} {row['tokens_per_second']:14,.0f} {share} "
        f"{row['peak_gib']:8.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=None, help="the fastest there is, if left out")
    parser.add_argument("--model", default=None, help="a path or hub id")
    parser.add_argument("--small", action="store_true", help="models of a few thousand weights")
    parser.add_argument("--json", type=Path, default=None, help="write all figures there, too")
    given = parser.parse_args()
    device = torch.device(given.device or fastest())
    sizes = SMALL if given.small else SMOLLM2
    failed, checks = 0, {}
    print(f"{device}, torch {torch.__version__}", flush=True)
    for name, check in CHECKS.items():
        try:
            checks[name] = check(device)
            print(f"ok      {name}: {checks[name]}", flush=True)
        except Exception as error:  # the other checks say more about what is wrong
            failed += 1
            checks[name] = f"FAILED: {error}"
            print(f"FAILED  {name}: {error}", flush=True)
    print(f"\n{'':26} {'seconds':>10} {'tokens/s':>14} {'bandwidth':>9} {'peak GiB':>8}")
    rows = []
    for row in measured(device, sizes, given.model):
        rows.append(row)
        print(shown(row), flush=True)
    if given.json is not None:
        # NaN is no JSON.
        plain = [{k: v for k, v in row.items() if v == v} for row in rows]
        found = {"device": str(device), "checks": checks, "figures": plain}
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
