"""Typed errors: each says what is wrong, where, and what to do next.

Every error that posteriori raises on purpose derives from `PosterioriError`, so that the command
line can print it on one line and a script can catch the whole family or one kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class PosterioriError(Exception):
    """The base class of all errors that posteriori raises on purpose.

    Args:
        what: what went wrong.
        where: in which function, file or table it did.
        hint: what to write or try instead.

    Example:
        >>> print(po.PosterioriError("there is no prompt", where="Target", hint="give some"))
        Target: there is no prompt; give some
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self.__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Also of errors with arguments of their own: a worker's error reaches its caller."""
        return _made_again, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        """One line, with control characters as escapes: what is quoted may be a completion or
        another program's message, and a terminal shows errors that are not caught."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return _printable(f"{head}; {self.hint}" if self.hint else head)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    line = " ".join(part for each in text.split("\n") if (part := each.strip()))
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line
    )


def _made_again(
    kind: type[PosterioriError], arguments: tuple[Any, ...], held: dict[str, Any]
) -> PosterioriError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(held)
    return error


class ConfigError(PosterioriError):
    """A setting is unknown, ill-typed or out of its range."""


class ArgumentError(ConfigError, TypeError):
    """A function is called with an argument that it has not, or without one that it needs."""


class UnknownNameError(ConfigError):
    """A name that no registry or table knows, with the nearest one that it does."""


class UnknownFigureError(UnknownNameError, KeyError):
    """A report has no figure of that name."""


class DataError(PosterioriError):
    """A file of prompts or columns cannot be read as such."""


class ModelError(PosterioriError):
    """A language model cannot be found, loaded or used in the way asked for."""


class PromptError(PosterioriError):
    """A prompt that the model cannot take: too long for its context, or without a first token."""


class OutcomeError(PosterioriError):
    """A token sequence that lies outside the outcome space of the target."""


class EvidenceError(PosterioriError):
    """A reward, likelihood or constraint returned something that is not evidence, or raised."""


class EvidenceCallError(EvidenceError):
    """The call itself failed (the function raised, took too long, its process died): another try
    may go well."""


class EnvironmentCallError(PosterioriError):
    """An environment raised, or answered in another form than a reply for each episode."""


class ObjectiveError(PosterioriError):
    """An objective is asked for something that its mathematics does not allow."""


class NonFiniteError(PosterioriError):
    """A loss or gradient is not finite; the update that it belongs to was not made."""


class CheckpointError(PosterioriError):
    """A checkpoint or run directory cannot be written, found or trusted."""


class MemoryLimitError(PosterioriError):
    """There is too little memory, even for the smallest part that the work can be split into."""


class StoppedError(PosterioriError):
    """A signal such as SIGTERM stopped the run; `signal_number` says which. The finished steps are
    in its newest checkpoint."""

    def __init__(self, what: str, *, signal_number: int, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.signal_number = signal_number


class DistributedError(PosterioriError):
    """Several processes cannot work together: one has ended, failed, or was started otherwise."""


class SamplingError(PosterioriError):
    """A sampler's assumption does not hold: a bound was broken, a budget ended with nothing."""


class SamplingStopped(SamplingError):  # noqa: N818 - it ends well for the draws it carries
    """A sampler stopped half way; `draws` are those that it had finished."""

    def __init__(self, what: str, *, hint: str | None = None, draws: Any) -> None:
        super().__init__(what, hint=hint)
        self.draws = draws


class EngineError(PosterioriError):
    """An engine, the program that draws for a model, cannot be started, reached or trusted."""


class FrontierError(PosterioriError):
    """A point of the reward-KL frontier that is not known, or that does not exist."""


class SpaceTooLargeError(PosterioriError):
    """Enumeration was asked for over more outcomes than it can hold."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of `known`, or all of them when none is near."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(options)}" if options else "none are known"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among `known`: `unknown objective 'dgp'; did you mean …`."""
    return UnknownNameError(f"unknown {kind} '{name}'", hint=did_you_mean(name, known))
