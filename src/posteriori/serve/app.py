"""The application: what is answered at which path."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from posteriori.core.protocols import LanguageModel
from posteriori.core.target import Target
from posteriori.errors import PosterioriError
from posteriori.samplers.base import Sampler

from .answer import Answer
from .guard import Guard
from .keys import Keys
from .lockstep import Lockstep
from .metrics import CONTENT_TYPE, Metrics
from .page import DrawsAsked, beside_the_prior, headers_of_page, page
from .parameters import ChatAsked, CompletionsAsked
from .posterior import Posterior, Wanted, with_token_log_prior
from .queue import Queue
from .refusal import Refusal, bad_request, refusal_of
from .refused import check_kept, parsed, read_body
from .settings import ServeConfig
from .texts import choices

T = TypeVar("T")
PATHS = frozenset(
    ("/", "/health", "/metrics", "/draws", "/v1/models", "/v1/completions", "/v1/chat/completions")
)


class Server:
    """A served posterior: `app` is the ASGI application, and `drain` makes it refuse new requests.

    Args:
        target: what is served.
        sampler: what draws.
        config: names and limits.
        proposal: the model that the sampler draws by; the prior if None.
        keys: of the clients; without any, all are let in.
        hosts: the names by which it may be addressed; any if None.
    """

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        config: ServeConfig,
        proposal: LanguageModel | None = None,
        keys: Keys | None = None,
        hosts: frozenset[str] | None = None,
    ) -> None:
        self.config, self.metrics = config, Metrics()
        self._lockstep = Lockstep(self.metrics.on_pass)
        self.posterior = Posterior(target, sampler, proposal, config.num_samples, self._lockstep)
        self.queue = Queue(config.running, config.waiting, self._lockstep.wake)
        self.metrics.follow(lambda: self.queue.held, lambda: self.queue.working)
        self._started = int(time.time())
        self.app = Guard(self._routes(), config, keys or Keys([]), hosts, self.metrics, PATHS)

    def drain(self) -> None:
        """From now on new requests are refused; those that are here are finished."""
        self.app.is_draining = True

    def close(self) -> None:
        """End the threads. Requests that are not finished are not answered."""
        self.queue.close()
        self._lockstep.close()

    def _routes(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield
            self.drain()

        # Its own pages of documentation would fetch scripts from elsewhere.
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

        @app.exception_handler(HTTPException)
        async def _(_: Request, error: HTTPException) -> Response:
            what = {404: "there is nothing at this path", 405: "this path takes another method"}
            message = what.get(error.status_code, str(error.detail))
            return _refused(Refusal(error.status_code, f"{message}; see docs/serving.md"))

        @app.exception_handler(Refusal)
        async def _(_: Request, error: Refusal) -> Response:
            return _refused(error)

        @app.get("/")
        async def _() -> Response:
            text = page(self.config.name, self.posterior)
            return Response(text, media_type="text/html", headers=headers_of_page())

        @app.get("/health")
        async def _() -> Response:
            if self.app.is_draining:
                return JSONResponse({"status": "ending"}, status_code=503)
            return JSONResponse({"status": "ok"})

        @app.get("/metrics")
        async def _() -> Response:
            return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

        @app.get("/v1/models")
        async def _() -> Response:
            return JSONResponse({"object": "list", "data": [self._model()]})

        @app.get("/v1/models/{name:path}")
        async def _(name: str) -> Response:
            self._check_name(name)
            return JSONResponse(self._model())

        @app.post("/v1/completions")
        async def _(request: Request) -> Response:
            return await self._answer(request, CompletionsAsked, "text")

        @app.post("/v1/chat/completions")
        async def _(request: Request) -> Response:
            return await self._answer(request, ChatAsked, "chat")

        @app.post("/draws")
        async def _(request: Request) -> Response:
            asked = parsed(DrawsAsked, await _table(request))
            if asked.n > self.config.most_choices:
                raise bad_request(f"n={asked.n} is above {self.config.most_choices}", "n")
            wanted = self._wanted(asked.prompts, asked.n, asked.seed, asked.max_tokens, None)

            def work(cancelled: Callable[[], None]) -> dict[str, Any]:
                with self._turn(asked.seed, cancelled):
                    return beside_the_prior(self.posterior, wanted, cancelled)

            return JSONResponse(await self._do(request, work))

        return app

    async def _answer(
        self, request: Request, kind: type[CompletionsAsked] | type[ChatAsked], name: str
    ) -> Response:
        asked = parsed(kind, await _table(request))
        self._check_name(asked.model)
        check_kept(asked, self.config.most_choices, self.config.most_prompts)
        wanted = self._wanted(asked.prompts, asked.n or 1, asked.seed, asked.length, asked.columns)
        answer = await self._do(request, lambda stop: self._draw(asked, wanted, name, stop))
        if asked.stream:
            options = asked.stream_options
            usage = options is not None and options.include_usage
            return StreamingResponse(
                _streamed(answer, usage),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )
        return JSONResponse(answer.whole())

    def _draw(
        self,
        asked: CompletionsAsked | ChatAsked,
        wanted: Wanted,
        name: str,
        cancelled: Callable[[], None],
    ) -> Answer:
        """In a request's thread."""
        in_pieces = bool(asked.stream) or asked.wants_log_probs
        with self._turn(asked.seed, cancelled):
            drawn = self.posterior.draw(wanted, cancelled)
            prior, chosen = self.posterior.target.prior, drawn.chosen
            if in_pieces:
                chosen = with_token_log_prior(chosen, self.posterior.target)
            texts = choices(chosen, prior, asked.stops, in_pieces=in_pieces)
        self.metrics.on_drawn(drawn)
        sampler = self.posterior.sampler
        return Answer(
            name,
            self.config.name,
            drawn,
            texts,
            sampler.name,
            drawn.pool.guarantee or sampler.guarantee,
            sampler.of_target and drawn.guarantee != "heuristic",
            asked.wants_log_probs,
        )

    def _turn(
        self, seed: int | None, cancelled: Callable[[], None]
    ) -> AbstractContextManager[None]:
        """A seed is there to be repeated: rounding differs with what else is in a pass."""
        shares = seed is None or self.config.share_seeded
        return self._lockstep.turn(cancelled, shares=shares)

    async def _do(self, request: Request, work: Callable[[Callable[[], None]], T]) -> T:
        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        try:
            return await self.queue.do(work, self.config.deadline, gone)
        except PosterioriError as error:
            raise refusal_of(error) from error

    def _wanted(
        self,
        prompts: Any,
        n: int,
        seed: int | None,
        length: int | None,
        columns: Mapping[str, Any] | None,
    ) -> Wanted:
        return Wanted(
            tuple(prompts),
            n,
            secrets.randbelow(2**31) if seed is None else seed,
            self.posterior.target.max_new_tokens if length is None else length,
            columns,
        )

    def _check_name(self, name: str) -> None:
        if name != self.config.name:
            raise Refusal(
                404,
                f"there is no model {name[:60]!r} here; the one that is served is "
                f"{self.config.name!r}",
                param="model",
                code="model_not_found",
            )

    def _model(self) -> dict[str, Any]:
        sampler = self.posterior.sampler
        about = {
            "sampler": sampler.name,
            "guarantee": sampler.guarantee,
            "max_new_tokens": self.posterior.target.max_new_tokens,
            "num_samples": self.posterior.num_samples if self.posterior.is_weighted else None,
        }
        return {
            "id": self.config.name,
            "object": "model",
            "created": self._started,
            "owned_by": "posteriori",
            "posteriori": about,
        }


async def _table(request: Request) -> Mapping[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page elsewhere can have a browser send other kinds without asking.
        raise Refusal(415, "the body has to be JSON; send Content-Type: application/json")
    return read_body(await request.body())


def _refused(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)


async def _streamed(answer: Answer, include_usage: bool) -> AsyncIterator[str]:
    for event in answer.events(include_usage=include_usage):
        yield event
