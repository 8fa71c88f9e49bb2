"""Our sampler beside vLLM and llama.cpp, and a training step whose draws come from an engine.

    .venv-engines/bin/python benchmarks/engines.py --smollm2 models/smollm2 [--gguf MODEL.gguf]

Prints tokens per second with log-probs, from runs taken in turns: our sampler in float32 and in
"mixed", vLLM in float32 and in bfloat16, and llama.cpp with the GGUF file. Then what a step of
`rloo` with LoRA costs through vLLM, beside its parts: the engine's draws alone, scoring them, and
the update. The environment is that of `make engines`; scripts/fetch_smollm2.py fetches the model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from transformers.utils import logging

import posteriori as po
from posteriori.core.seeds import generator
from posteriori.models.causal import CausalLM

TEXTS = ("I think you are", "My boss is", "The weather", "People say that this")
SIZES = ((64, 64), (256, 20), (64, 512))
STEP_TOKENS, STEP_DRAWS, STEPS = 32, 16, 6


def in_turns(draws: dict[str, Callable[[int], int]], rounds: int) -> dict[str, float]:
    """Tokens per second of each, the median over rounds; a call takes a seed and returns how many
    tokens it has made. Each is called once before, to start what has to start."""
    speeds: dict[str, list[float]] = {name: [] for name in draws}
    for seed in range(rounds + 1):
        for name, draw in draws.items():
            start = time.perf_counter()
            tokens = draw(seed)
            if seed:
                speeds[name].append(tokens / (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in speeds.items()}


def drawing(lm: po.CausalLM | po.Engine, each: int, length: int) -> Callable[[int], int]:
    def draw(seed: int) -> int:
        return int(lm.sample(list(TEXTS), each, length, generator(seed)).lengths_N.sum())

    return draw


@contextmanager
def models(options: argparse.Namespace) -> Iterator[dict[str, po.CausalLM | po.Engine]]:
    """All that draw, by name."""
    plain = po.load(options.smollm2, dtype="float32")
    with ExitStack() as open_engines:
        found: dict[str, po.CausalLM | po.Engine] = {
            "ours, float32": plain,
            "ours, mixed": po.load(options.smollm2, dtype="mixed"),
        }
        for dtype in ("float32", "bfloat16"):
            engine = po.Engine(plain, "vllm", dtype=dtype, memory_gib=2.0)
            found[f"vLLM, {dtype}"] = open_engines.enter_context(engine)
        if options.gguf:
            prior = po.load(options.gguf, dtype="float32")
            engine = po.Engine(prior, "llama.cpp", gguf=options.gguf, slots=64)
            found["llama.cpp"] = open_engines.enter_context(engine)
        yield found


def sampling(options: argparse.Namespace) -> None:
    with models(options) as found:
        for number, length in options.sizes:
            each = number // len(TEXTS)
            speeds = in_turns(
                {name: drawing(lm, each, length) for name, lm in found.items()}, options.rounds
            )
            best = max(speed for name, speed in speeds.items() if name.startswith("ours"))
            for name, speed in speeds.items():
                ratio = "" if name.startswith("ours") else f"   ours {best / speed:5.2f} times"
                print(
                    f"{number:4d} x {length:<4d} {name:16s} {speed:8.0f} tokens/s{ratio}",
                    flush=True,
                )


def step(options: argparse.Namespace) -> None:
    """The same step with our draws and with vLLM's; medians over the steps after the first."""
    prior: CausalLM = po.load(options.smollm2, dtype="float32")
    reward = po.Reward(lambda completions, **_: [float("you" in y) for y in completions], beta=1.0)
    target = po.Target(prior, reward, list(TEXTS), STEP_TOKENS)
    with po.Engine(prior, "vllm", memory_gib=2.0) as engine:
        own, served = (
            po.fit(
                target,
                "rloo",
                steps=STEPS,
                num_samples=STEP_DRAWS,
                policy="lora",
                learning_rate=1e-5,
                seed=0,
                sampler=sampler,
            ).history
            for sampler in (None, engine)
        )
        draw = engine_draws_alone(engine)
        drawn = prior.sample(list(TEXTS), STEP_DRAWS, STEP_TOKENS, generator(0))
        score = seconds_of(lambda: prior.token_log_prob(drawn))
    rest = median(record["seconds"] - record["draw_seconds"] for record in own[1:])
    whole = median(record["seconds"] for record in served[1:])
    print(
        f"a step through vLLM {whole:.2f} s; its parts: draws {draw:.2f}, scoring {score:.2f}, "
        f"the update {rest:.2f}; together {draw + score + rest:.2f}, ratio "
        f"{whole / (draw + score + rest):.2f}"
    )


def engine_draws_alone(engine: po.Engine) -> float:
    """Of its program, without a change of weights."""
    return seconds_of(lambda: engine.sample(list(TEXTS), STEP_DRAWS, STEP_TOKENS, generator(0)))


def seconds_of(call: Callable[[], object]) -> float:
    """The median of three, after one."""
    found = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.no_grad():
            call()
        found.append(time.perf_counter() - start)
    return median(found[1:])


def median(values) -> float:
    return float(statistics.median(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", required=True, help="directory of SmolLM2-135M")
    parser.add_argument("--gguf", help="the same model as a GGUF file, for llama.cpp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, help="such as 64x64")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sampling(options)
    step(options)


def size(text: str) -> tuple[int, int]:
    number, length = text.split("x")
    return int(number), int(length)


if __name__ == "__main__":
    main()
