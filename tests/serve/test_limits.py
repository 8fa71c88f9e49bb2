"""The queue, deadlines, clients that leave, and the end of the server."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
from served import client, get, post, posts, serving, small_target

BODY = {"model": "small", "prompt": "x", "seed": 1}


class Gate:
    """A reward that waits until it is opened; it says when it has been reached."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, completions, **kwargs):
        self.reached.set()
        assert self.opened.wait(30)
        return [1.0] * len(completions)


async def wait_for(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_a_full_queue_refuses():
    gate = Gate()
    with serving(small_target(gate), running=1, waiting=2) as served:

        async def story():
            async with client(served) as asking:
                first = [
                    asyncio.create_task(asking.post("/v1/completions", json=BODY)) for _ in range(3)
                ]
                await wait_for(lambda: served.queue.held == 3)
                refused = await asking.post("/v1/completions", json=BODY)
                gate.opened.set()
                return refused, [await each for each in first]

        refused, answered = asyncio.run(story())
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    assert [each.status_code for each in answered] == [200] * 3


def test_a_deadline_ends_a_request_and_its_work():
    gate = Gate()
    with serving(small_target(gate), running=1, deadline=0.15) as served:
        started = time.monotonic()
        late = posts(served, [BODY, BODY])
        assert time.monotonic() - started < 5
        assert [each.status_code for each in late] == [504, 504]
        assert late[0].json()["error"]["code"] == "deadline"
        assert served.queue.held == 2  # the function still runs, and its place is not given away
        gate.opened.set()
        asyncio.run(wait_for(lambda: served.queue.held == 0))
        assert post(served, BODY).status_code == 200


def test_endless_rejection_ends_at_the_deadline():
    def hopeless(completions, **kwargs):
        return [-1e6] * len(completions)

    with serving(small_target(hopeless), settings={"max_draws": 10**9}, deadline=0.3) as served:
        assert post(served, BODY).status_code == 504
        asyncio.run(wait_for(lambda: served.queue.held == 0))


def test_a_budget_that_ends_with_too_little_is_said():
    def hopeless(completions, **kwargs):
        return [-1e6] * len(completions)

    with serving(small_target(hopeless), settings={"max_draws": 64}) as served:
        refused = post(served, BODY)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "too_few_draws"
    assert "64" in refused.json()["error"]["message"]


def test_a_client_that_leaves_ends_its_work():
    gate = Gate()
    with serving(small_target(gate), running=1) as served:
        sent = []

        async def story():
            """ASGI by hand: the client leaves while its draws are judged."""
            left = asyncio.Event()
            messages = [{"type": "http.request", "body": b'{"model": "small", "prompt": "x"}'}]

            async def receive():
                if messages:
                    return messages.pop()
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                sent.append(message)

            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
                "path": "/v1/completions",
                "raw_path": b"/v1/completions",
                "query_string": b"",
                "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
                "scheme": "http",
                "server": ("localhost", 80),
                "client": ("localhost", 1),
                "root_path": "",
            }
            task = asyncio.create_task(served.app(scope, receive, send))
            await wait_for(gate.reached.is_set)
            left.set()
            await asyncio.wait_for(task, 5)
            gate.opened.set()
            await wait_for(lambda: served.queue.held == 0)

        asyncio.run(story())
        assert 200 not in [message.get("status") for message in sent]
        assert "posteriori_draws_total 0.0" in get(served, "/metrics").text
        assert post(served, BODY).status_code == 200


def test_an_ending_server_finishes_what_it_has_and_refuses_the_rest():
    gate = Gate()
    with serving(small_target(gate), running=2) as served:

        async def story():
            async with client(served) as asking:
                begun = [
                    asyncio.create_task(asking.post("/v1/completions", json=BODY)) for _ in range(2)
                ]
                await wait_for(lambda: served.queue.held == 2)
                served.drain()
                refused = await asking.post("/v1/completions", json=BODY)
                health = await asking.get("/health")
                gate.opened.set()
                return refused, health, [await each for each in begun]

        refused, health, begun = asyncio.run(story())
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "ending"
    assert (health.status_code, health.json()) == (503, {"status": "ending"})
    assert [each.status_code for each in begun] == [200, 200]


def test_a_body_that_is_too_large(small):
    big = post(small, {**BODY, "prompt": "x" * (2**20)})
    assert big.status_code == 413
    assert big.json()["error"]["code"] == "body_too_large"

    async def in_pieces():
        async def body():
            for _ in range(40):
                yield b"x" * 2**15

        async with client(small) as asking:
            kind = {"Content-Type": "application/json"}
            return await asking.post("/v1/completions", content=body(), headers=kind)

    assert asyncio.run(in_pieces()).status_code == 413


def test_a_body_that_never_comes():
    with serving(body_seconds=0.1) as served:

        async def body():
            yield b'{"model": '
            await asyncio.sleep(30)

        async def story() -> httpx.Response:
            async with client(served) as asking:
                kind = {"Content-Type": "application/json"}
                return await asking.post("/v1/completions", content=body(), headers=kind)

        slow = asyncio.run(story())
    assert slow.status_code == 408
    assert slow.json()["error"]["code"] == "slow_body"


def test_no_request_stays_in_memory_when_all_are_done(small):
    posts(small, [{**BODY, "seed": seed} for seed in range(40)])
    asyncio.run(wait_for(lambda: small.queue.held == 0))
    assert (small.queue.held, small.queue.working) == (0, 0)
    assert not small.posterior.lockstep._waiting
