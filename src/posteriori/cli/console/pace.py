"""Rates, and the time that remains."""

from __future__ import annotations

import time

from rich.progress import ProgressColumn, Task
from rich.text import Text

_FIRST = 2.0
"""Seconds after which a person wants to hear how far it is."""


_ROUND_RATE = 100
"""Units per second from which on no decimals are shown."""


class Pace:
    """Time since its start, and when a line is due: after 2 seconds, 4, 8 and so on, so that a
    short run prints none and a long one few."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self._next = _FIRST

    def due(self) -> bool:
        """Whether it is time for a line; then the next one is due at twice the time."""
        seconds = time.perf_counter() - self.start
        if seconds < self._next:
            return False
        while self._next <= seconds:
            self._next *= 2
        return True

    def words(self, done: int, total: int) -> str:
        """The time so far, the rate, and the time left at that rate."""
        seconds = time.perf_counter() - self.start
        parts = [_clock(seconds)]
        if done and seconds:
            parts.append(rate(done / seconds))
            if done < total:
                parts.append(f"{_clock((total - done) * seconds / done)} left")
        return ", ".join(parts)


class Parts:
    """Work whose parts are counted one after another, of an unknown number."""

    def __init__(self) -> None:
        self.number, self._done = 1, 0

    def begins(self, done: int) -> bool:
        """Whether this is the first that is heard of a new part."""
        new = done < self._done
        self.number += new
        self._done = done
        return new

    def called(self, name: str) -> str:
        return name if self.number == 1 else f"{name}, part {self.number}"


class RateColumn(ProgressColumn):
    """Units per second, or seconds per unit where they are slow."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate(speed) if speed else "", style="progress.data.speed")


def rate(per_second: float) -> str:
    if per_second < 1:
        return f"{1 / per_second:.3g} s each"
    return f"{per_second:,.0f}/s" if per_second >= _ROUND_RATE else f"{per_second:.3g}/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours or minutes else f"{rest} s"
