"""A small posterior that is served in this process, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from helpers import WORDS

import posteriori as po
from posteriori.core.registry import make
from posteriori.serve.app import Server
from posteriori.serve.keys import Keys
from posteriori.serve.settings import ServeConfig

BETA = 0.7


def likes_b(completion_ids, **kwargs):
    return [float(sum(token == 2 for token in ids)) for ids in completion_ids]


def small_target(fn: Callable[..., Any] = likes_b, length: int = 3) -> po.Target:
    prior = po.TabularLM.random(WORDS[:4], length, ("x", "y"), seed=1)
    reward = po.Reward(fn, beta=BETA, max_reward=float(length))
    return po.Target(prior, reward, ["x", "y"], length)


@contextmanager
def serving(
    target: po.Target | None = None,
    sampler: str = "rejection",
    *,
    keys: Keys | None = None,
    hosts: frozenset[str] | None = None,
    settings: dict[str, Any] | None = None,
    **config: Any,
) -> Iterator[Server]:
    made = make("sampler", sampler, settings or {}, "settings", None)
    served = Server(
        target or small_target(),
        made,
        ServeConfig(name="small", **config),
        keys=keys,
        hosts=hosts,
    )
    try:
        yield served
    finally:
        served.close()


def client(served: Server, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(served.app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


def post(served: Server, body: Any, path: str = "/v1/completions", **headers: str) -> Any:
    """One request's response."""
    return posts(served, [body], path, **headers)[0]


def posts(served: Server, bodies: list[Any], path: str = "/v1/completions", **headers: str) -> Any:
    """The responses to requests that are sent at once."""

    async def all_of_them():
        async with client(served, **headers) as asking:
            return await asyncio.gather(*(asking.post(path, json=body) for body in bodies))

    return asyncio.run(all_of_them())


def get(served: Server, path: str, **headers: str) -> Any:
    async def it():
        async with client(served, **headers) as asking:
            return await asking.get(path)

    return asyncio.run(it())
