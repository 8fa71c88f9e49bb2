"""Load on `posteriori serve`: what it adds to the sampler, and that no request is lost or wrong.

    python benchmarks/serve.py [--requests 2000] [--clients 8]

A small language model is served by rejection from another process. 2,000 requests, each with its
own seed, are sent by several connections; every answer is compared with `po.sample` of the same
seed in this process. Then slow clients, cancelled streams, malformed requests, and a server that is
killed and started again under load. The overhead of the server is what a request takes beyond its
sampler, one request at a time: the seconds of the answer's `cost` against the client's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

import posteriori as po

REWARD = """\
def score(completions, **kwargs):
    return [float("good" in text or "love" in text) for text in completions]
"""
CONFIG = """\
prompts = ["My boss is", "You are", "The food"]
max_new_tokens = 6
[[evidence]]
kind = "reward"
function = "reward.py:score"
beta = 1.0
max_reward = 1.0
"""
PROMPTS = ("My boss is", "You are", "The food")


class Served:
    """A server in another process, in a folder with its run file."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "posteriori", "serve", str(folder / "run.toml")]
        command += ["--sampler", "rejection", "--port", str(port), "--waiting", "4000"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in iter(self.process.stderr.readline, ""):
            found = re.search(r"at (http://127\.0\.0\.1:(\d+))", line)
            if found:
                self.url, self.port = found[1], int(found[2])
                return
        raise SystemExit("the server did not start")

    @property
    def mib(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


def body(seed: int) -> dict:
    return {"model": "run", "prompt": PROMPTS[seed % 3], "n": 1, "seed": seed}


async def load(url: str, seeds: range, clients: int) -> dict[int, tuple[str, float, float]]:
    """Each seed's text, the seconds it took, and those of its sampler."""
    found: dict[int, tuple[str, float, float]] = {}
    left = iter(seeds)

    async def one() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            for seed in left:
                started = time.perf_counter()
                answer = await client.post("/v1/completions", json=body(seed))
                seconds = time.perf_counter() - started
                told = answer.raise_for_status().json()
                text, cost = told["choices"][0]["text"], told["posteriori"]["cost"]
                found[seed] = text, seconds, cost["seconds"]

    await asyncio.gather(*(one() for _ in range(clients)))
    return found


def expected(folder: Path, seeds: range) -> dict[int, str]:
    target = po.load_target(folder / "run.toml")
    each = [target.with_prompts([prompt]) for prompt in PROMPTS]
    return {
        seed: po.sample(each[seed % 3], "rejection", num_samples=1, seed=seed).texts[0]
        for seed in seeds
    }


async def slow_clients(url: str, number: int) -> int:
    """Clients that send half a request and wait; how many are answered 408 or cut off."""
    host, port = url.removeprefix("http://").split(":")

    async def one() -> bool:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        await writer.drain()
        line = await asyncio.wait_for(reader.readline(), 30)
        writer.close()
        return line == b"" or b" 408 " in line

    return sum(await asyncio.gather(*(one() for _ in range(number))))


async def cancelled_streams(url: str, number: int) -> None:
    async def one(seed: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            asked = {**body(seed), "stream": True, "n": 64}
            with_stream = client.stream("POST", "/v1/completions", json=asked)
            try:
                async with asyncio.timeout(0.002 * seed), with_stream as answer:
                    async for _ in answer.aiter_lines():
                        break
            except TimeoutError:
                return

    await asyncio.gather(*(one(seed) for seed in range(number)))


async def malformed(url: str, number: int) -> set[int]:
    noise = np.random.default_rng(0)
    whole = json.dumps(body(1)).encode()
    codes = set()
    kind = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(number):
            spoilt = bytearray(whole[: noise.integers(1, len(whole) + 1)])
            spoilt[noise.integers(len(spoilt))] = noise.integers(256)
            answer = await client.post("/v1/completions", content=bytes(spoilt), headers=kind)
            codes.add(answer.status_code)
    return codes


async def killed_under_load(folder: Path, served: Served, truth: dict[int, str]) -> int:
    """SIGKILL in the middle; clients try again until they are answered. Returns wrong answers."""
    seeds = iter(range(300))
    wrong = 0

    async def one() -> None:
        nonlocal wrong
        for seed in seeds:
            while True:
                try:
                    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
                        answer = await client.post("/v1/completions", json=body(seed))
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.2)
            wrong += answer.json()["choices"][0]["text"] != truth[seed]

    async def kill() -> None:
        await asyncio.sleep(1.0)
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        again = await asyncio.to_thread(Served, folder, served.port)
        served.process = again.process

    await asyncio.gather(kill(), *(one() for _ in range(4)))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run.toml").write_text(CONFIG)
        (folder / "reward.py").write_text(REWARD)
        seeds = range(given.requests)
        truth = expected(folder, seeds)
        served = Served(folder)
        try:
            report(folder, served, seeds, truth, given.clients)
        finally:
            served.process.kill()


def report(folder: Path, served: Served, seeds: range, truth: dict[int, str], clients: int) -> None:
    asyncio.run(load(served.url, range(50), 2))
    alone = asyncio.run(load(served.url, range(300), 1))
    beyond = np.array([total - own for _, total, own in alone.values()]) * 1e3
    print(
        f"overhead over the sampler, one at a time, ms: p50 {np.quantile(beyond, 0.5):.2f}, "
        f"p99 {np.quantile(beyond, 0.99):.2f}"
    )
    before, started = served.mib, time.perf_counter()
    found = asyncio.run(load(served.url, seeds, clients))
    seconds = time.perf_counter() - started
    wrong = sum(found[seed][0] != truth[seed] for seed in found)
    took = np.array([total for _, total, _ in found.values()]) * 1e3
    print(
        f"{len(found)} of {len(seeds)} answered, {wrong} otherwise than po.sample; "
        f"{len(found) / seconds:.0f} a second, {clients} clients, "
        f"p50 {np.quantile(took, 0.5):.0f} ms, p99 {np.quantile(took, 0.99):.0f} ms"
    )
    print(f"memory of the server, MiB: {before:.0f} before, {served.mib:.0f} after")
    asyncio.run(cancelled_streams(served.url, 50))
    print(f"malformed: statuses {sorted(asyncio.run(malformed(served.url, 500)))}")
    print(f"slow clients that were let go: {asyncio.run(slow_clients(served.url, 20))} of 20")
    with httpx.Client(base_url=served.url) as client:
        lines = client.get("/metrics").text.splitlines()
        wanted = ("posteriori_requests_held", "posteriori_requests_per_pass_")
        kept = [x for x in lines if x.startswith(wanted) and "bucket" not in x]
        print("after all of it:", "; ".join(x for x in kept if "created" not in x))
    print(f"memory of the server, MiB: {served.mib:.0f}")
    wrong = asyncio.run(killed_under_load(folder, served, truth))
    print(f"killed and started again under load: 300 answered, {wrong} wrong")
    served.process.send_signal(signal.SIGTERM)
    print(f"SIGTERM: exit code {served.process.wait(60)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
