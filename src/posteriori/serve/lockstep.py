"""Requests share passes over the model: each runs its sampler by itself, and draws wait for each
other.

Every request has a thread, of which one at a time runs. It gives way where its sampler wants draws
of a language model; once all threads wait for draws, a thread of its own makes them in one pass
(`models.execution.together`), and the requests go on. A request that arrives meanwhile joins the
next pass. So a sampler knows nothing of other requests, users' functions are never called by two
threads at once, and what is drawn is what the request alone would have drawn,
up to rounding; exactly that where a request has its passes to itself.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt
from posteriori.core.prompted import Prompted
from posteriori.core.protocols import LanguageModel
from posteriori.models.causal import CausalLM
from posteriori.models.execution.together import SampleCall, sample_together
from posteriori.models.tabular import TabularLM

LanguageModelT = TypeVar("LanguageModelT", bound=LanguageModel)


@dataclass(eq=False)
class _Waiting:
    """Draws that a request waits for, and what came of them."""

    lm: LanguageModel
    call: SampleCall
    shares: bool
    drawn: Completions | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.drawn is not None or self.error is not None


@dataclass(eq=False)
class Turn:
    """A request's part in it."""

    cancelled: Callable[[], None]
    """Asked wherever it waits; raises where the request is to end."""
    shares: bool
    """Whether its draws go through the model with others'."""


class Lockstep:
    """The order of the threads, and the thread that makes draws for all of them.

    `on_pass` hears how many requests each pass was for. `close` ends the drawing thread.
    """

    def __init__(self, on_pass: Callable[[int], None] = lambda _: None) -> None:
        self._on_pass = on_pass
        self._changed = threading.Condition()
        self._is_busy = False
        self._wanting = 0
        self._waiting: list[_Waiting] = []
        self._is_closed = False
        self._own = threading.local()
        self._thread = threading.Thread(target=self._draw_for_ever, name="draws", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def wake(self) -> None:
        """Let those who wait ask again whether they are cancelled."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def turn(self, cancelled: Callable[[], None], *, shares: bool = True) -> Generator[None]:
        """Inside it this thread is one of those that take turns. One that `shares` nothing has its
        passes to itself: not even rounding depends then on what else was asked for."""
        turn = Turn(cancelled, shares)
        self._take(turn)
        self._own.turn = turn
        try:
            yield
        finally:
            self._own.turn = None
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def sharing(self, lm: LanguageModelT) -> LanguageModelT:
        """The same model, whose `sample` waits for the draws of other requests.

        A copy that has all that the model has: samplers ask what it can do, and whether it is the
        prior. A model that does not draw by rows of uniform numbers is left as it is.
        """
        if isinstance(lm, Prompted):
            bare: Any = Prompted(self.sharing(lm.lm), lm.prefix)
            return bare
        if not isinstance(lm, CausalLM | TabularLM):
            return lm
        shared = copy.copy(lm)

        def sample(
            prompts: Sequence[Prompt],
            num_samples: int,
            max_new_tokens: int,
            generator: torch.Generator | None = None,
        ) -> Completions:
            call = SampleCall(tuple(prompts), num_samples, max_new_tokens, generator)
            return self._sample(lm, call)

        # An attribute of the copy alone stands before the method of its class.
        object.__setattr__(shared, "sample", sample)
        return shared

    def _sample(self, lm: LanguageModel, call: SampleCall) -> Completions:
        turn: Turn | None = getattr(self._own, "turn", None)
        if turn is None or not call.rows:
            return lm.sample(call.prompts, call.num_samples, call.max_new_tokens, call.generator)
        mine = _Waiting(lm, call, turn.shares)
        with self._changed:
            self._is_busy = False
            self._waiting.append(mine)
            self._changed.notify_all()
            try:
                while not mine.is_done:
                    turn.cancelled()
                    self._changed.wait()
            finally:
                # The turn is left by `turn`, which has to be in it.
                if mine in self._waiting:
                    self._waiting.remove(mine)
                self._take_held()
        if mine.error is not None:
            raise mine.error
        assert mine.drawn is not None
        return mine.drawn

    def _take(self, turn: Turn) -> None:
        with self._changed:
            self._take_held(turn.cancelled)

    def _take_held(self, cancelled: Callable[[], None] = lambda: None) -> None:
        self._wanting += 1
        try:
            while self._is_busy:
                cancelled()
                self._changed.wait()
            self._is_busy = True
        finally:
            self._wanting -= 1
            self._changed.notify_all()

    def _draw_for_ever(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and not (
                    self._waiting and not self._is_busy and not self._wanting
                ):
                    self._changed.wait()
                if self._is_closed:
                    return
                batch = self._next_batch()
                self._is_busy = True
            try:
                _draw(batch)
                self._on_pass(len(batch))
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()

    def _next_batch(self) -> list[_Waiting]:
        """Those who wait for the same model and length as the first, who has waited longest."""
        first = self._waiting[0]
        batch = [first]
        if first.shares:
            kind = (id(first.lm), first.call.max_new_tokens)
            batch = [
                each
                for each in self._waiting
                if each.shares and (id(each.lm), each.call.max_new_tokens) == kind
            ]
        self._waiting = [each for each in self._waiting if each not in batch]
        return batch


def _draw(batch: Sequence[_Waiting]) -> None:
    """Draw for all of them at once; where that fails, for each alone, so that a request's error is
    its own."""
    if len(batch) > 1:
        try:
            drawn = sample_together(batch[0].lm, [each.call for each in batch])
        except Exception:
            drawn = None
        if drawn is not None:
            for each, own in zip(batch, drawn, strict=True):
                each.drawn = own
            return
    for each in batch:
        call = each.call
        try:
            each.drawn = each.lm.sample(
                call.prompts, call.num_samples, call.max_new_tokens, call.generator
            )
        except Exception as error:
            each.error = error
