"""How a user's function is called: through a cache, in a pool with time-outs, with a policy for
calls that fail. All of it is off unless asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from typing import Any

from posteriori.core.completions import Completions
from posteriori.core.cost import counted, spend
from posteriori.core.protocols import Columns
from posteriori.core.run.call_context import CallContext, calling_within, current_calls
from posteriori.core.run.progress import advance
from posteriori.core.types import Cost, Finding
from posteriori.distributed.exchange import by_rows, is_shared_out
from posteriori.distributed.executor import SentOnce
from posteriori.errors import EvidenceCallError, EvidenceError

from .answer_cache import Cache, completion_keys
from .call import arguments_of, call_user_function
from .failures import DROPPED, Chunk, FailurePolicy
from .pools import Reply, Request, Slot, ThreadSlot, reply, run
from .settings import CallSettings


@dataclass
class CallCounts:
    """What asking took: calls of the function, completions in them, calls that failed (and of
    those, how many were asked for again), completions dropped, answers found in the cache."""

    calls: int = 0
    completions: int = 0
    failures: int = 0
    retries: int = 0
    dropped: int = 0
    cache_hits: int = 0

    def __add__(self, other: CallCounts) -> CallCounts:
        return CallCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Caller(SentOnce):
    """A user's function with `CallSettings` around it; gives one answer per completion.

    The answers do not depend on how they were come by: chunks are put together in the completions'
    order. A dropped completion's answer is `dropped`. Raises `EvidenceError` for answers that are
    no list of the right length, whatever the policy: that is no accident.
    """

    def __init__(
        self, fn: Callable[..., Any], name: str, settings: CallSettings, dropped: Any
    ) -> None:
        self.fn, self.name, self.settings, self.dropped = fn, name, settings, dropped
        self.counts = CallCounts()
        self._cache = Cache(settings.cache_size) if settings.cache else None
        self._slots = _make_slots(fn, name, settings)

    def __call__(self, completions: Completions, columns: Columns) -> list[Any]:
        if self._cache is None:
            answers = self._shared(completions, columns, range(len(completions)))
        else:
            answers = self._through(self._cache, completions, columns)
        num = sum(answer is DROPPED for answer in answers)
        if not num:
            return answers
        self.counts.dropped += num
        warnings.warn(
            f"{self.name}: {num} of {len(answers)} completions were dropped: their calls failed",
            RuntimeWarning,
            stacklevel=3,
        )
        return [self.dropped if answer is DROPPED else answer for answer in answers]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """That completions were dropped, if any were."""
        if not self.counts.dropped:
            return ()
        return (
            Finding(
                "warn",
                "evidence_dropped",
                f"{self.name} failed on {self.counts.dropped} of {self.counts.completions} "
                "completions that it was asked for so far, and they count as ruled out: the "
                "target is that of the others.",
                "Where failing has to do with the text, mend the function; or use "
                "on_failure='retry'.",
            ),
        )

    def _through(self, cache: Cache, completions: Completions, columns: Columns) -> list[Any]:
        def ask(rows: list[int]) -> list[Any]:
            return self._shared(completions, columns, rows)

        keys = completion_keys(completions, columns, self.name)
        repeats = cache.known(keys, self.settings.check_repeats)
        if repeats:
            again = ask(repeats)
            answered = [at for at, answer in enumerate(again) if answer is not DROPPED]
            cache.check(
                [keys[repeats[at]] for at in answered], [again[at] for at in answered], self.name
            )
        answers = cache.answers(keys, ask, keep=lambda answer: answer is not DROPPED)
        self.counts.cache_hits = cache.hits
        return answers

    def _shared(self, completions: Completions, columns: Columns, rows: Sequence[int]) -> list[Any]:
        """The answers to `rows`. With several processes each asks about those that it drew, and
        actors about their pieces; what the functions log, and the counts, are those of all
        together."""
        if not is_shared_out() or not rows:
            return self._ask(*_rows(completions, columns, rows))
        before = replace(self.counts)

        def ask(share: slice) -> tuple[list[int], Reply, CallCounts, Cost]:
            mine = [at for at, row in enumerate(rows) if share.start <= row < share.stop]
            around = current_calls()
            context = CallContext(around.trainer_state, reserved=around.reserved)
            self.counts = CallCounts()
            answers: list[Any] = []
            cost = Cost()
            if mine:
                asked = _rows(completions, columns, [rows[at] for at in mine])
                with calling_within(context), counted() as spent:
                    answers = self._ask(*asked)
                cost = spent.cost
            return mine, Reply(answers, context.metrics, context.extra), self.counts, cost

        try:
            parts = by_rows(len(completions), ask)
        finally:
            self.counts = before
        self.counts = sum((counts for _, _, counts, _ in parts), before)
        cost = sum((each for *_, each in parts), Cost())
        spend(lm_tokens=cost.lm_tokens, evidence_calls=cost.evidence_calls)
        replies = [(mine, reply) for mine, reply, *_ in parts if mine]
        answers: list[Any] = [DROPPED] * len(rows)
        for mine, each in replies:
            for at, answer in zip(mine, each.answers, strict=True):
                answers[at] = answer
        _log(current_calls(), replies, len(rows))
        return answers

    def _ask(self, completions: Completions, columns: Columns) -> list[Any]:
        self.counts.completions += len(completions)
        if not self._slots and self.settings.on_failure == "fail":
            self.counts.calls += 1
            try:
                return call_user_function(self.fn, completions, columns, name=self.name)
            except EvidenceError:
                self.counts.failures += 1
                raise
        context = current_calls()
        policy = FailurePolicy(self.settings)
        answers: list[Any] = [DROPPED] * len(completions)
        replies: list[tuple[Chunk, Reply]] = []
        chunks = self._chunks(len(completions))
        while chunks:
            self.counts.calls += len(chunks)
            requests = [
                Request(
                    arguments_of(*_rows(completions, columns, chunk)),
                    self.name,
                    context.trainer_state,
                )
                for chunk in chunks
            ]
            failed = []
            with closing(self._run(requests)) as results:
                for index, result in results:
                    if isinstance(result, Reply):
                        advance(len(chunks[index]))
                        replies.append((chunks[index], result))
                        continue
                    self.counts.failures += 1
                    if not isinstance(result, EvidenceCallError) or policy.fails_at_once:
                        raise result
                    failed.append((chunks[index], result))
            failed.sort(key=lambda each: each[0])
            chunks = policy.again(failed)
            self.counts.retries += len(chunks)
        for chunk, each in replies:
            for row, answer in zip(chunk, each.answers, strict=True):
                answers[row] = answer
        _log(context, sorted(replies, key=lambda each: each[0]), len(completions))
        return answers

    def _run(self, requests: Sequence[Request]) -> Generator[tuple[int, Reply | EvidenceError]]:
        if self._slots:
            return run(self._slots, requests, self.settings.timeout)
        return ((index, reply(self.fn, request)) for index, request in enumerate(requests))

    def _chunks(self, num: int) -> list[Chunk]:
        """Of `chunk_size`, or as many as there are workers."""
        size = self.settings.chunk_size or -(-num // max(1, len(self._slots)))
        return [list(range(start, min(start + size, num))) for start in range(0, num, size)]


def _make_slots(fn: Callable[..., Any], name: str, settings: CallSettings) -> list[Slot]:
    wanted = settings.workers is not None or settings.timeout is not None
    if settings.pool == "process":
        from .processes import ProcessSlot

        return [ProcessSlot(fn, name) for _ in range(settings.workers or 1)]
    return [ThreadSlot(fn) for _ in range(settings.workers or 1)] if wanted else []


def _rows(
    completions: Completions, columns: Columns, rows: Sequence[int]
) -> tuple[Completions, dict[str, list[Any]]]:
    if len(rows) == len(completions):
        return completions, {name: list(values) for name, values in columns.items()}
    return completions.select(rows), {
        name: [values[row] for row in rows] for name, values in columns.items()
    }


def _log(context: CallContext, replies: Sequence[tuple[Chunk, Reply]], num: int) -> None:
    """What the chunks logged: the mean of each metric over completions, and every column that all
    of them have."""
    for name in dict.fromkeys(name for _, each in replies for name in each.metrics):
        logged = [(len(c), each.metrics[name]) for c, each in replies if name in each.metrics]
        total = sum(size for size, _ in logged)
        context.log_metric(name, sum(size * value for size, value in logged) / total)
    for name in dict.fromkeys(name for _, each in replies for name in each.extra):
        values = [value for _, each in replies for value in each.extra.get(name, [])]
        if len(values) == num:
            context.log_extra(name, values)
