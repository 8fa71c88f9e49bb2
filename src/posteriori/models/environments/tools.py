"""`Tools`: functions, or the methods of an object with a state, as an environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, EnvironmentCallError

from .episode import Episode, Reply
from .tool_calls import ToolCall, calls_in

ReadCalls = Callable[[str], Sequence[ToolCall]]


class Tools:
    """An environment that runs the tools which a turn calls, and ends where it calls none.

    The tools are functions, or the public methods of what `environment_factory` makes: one object
    per episode, with a `reset`, as TRL's trainers take them. A tool that raises, an unknown one and
    a call that cannot be read answer with the error's text, which the model sees. Each episode's
    object is made anew for every turn, and the earlier turns are played again: it has to answer
    the same calls with the same replies.

    Args:
        functions: the tools, by their names.
        environment_factory: makes an object; its `reset(prompt=...)` is called first, and its other
            public methods are tools.
        read_calls: finds the calls in a turn's text; left out, `<tool_call>{...}</tool_call>`.

    Raises:
        ConfigError: for no tools, or two of one name.
        EnvironmentCallError: for an object that answers otherwise when it is asked again.

    Example:
        >>> def add(a, b):
        ...     return a + b
        >>> turn = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'
        >>> chat = [{"role": "user", "content": "2 + 3?"}]
        >>> po.Tools([add])([po.Episode(chat, (turn,), (), seed=0)])
        [[{'role': 'tool', 'name': 'add', 'content': '5'}]]
    """

    @named_arguments
    def __init__(
        self,
        functions: Sequence[Callable[..., Any]] = (),
        *,
        environment_factory: Callable[[], Any] | None = None,
        read_calls: ReadCalls = calls_in,
    ) -> None:
        names = [function.__name__ for function in functions]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not (names or environment_factory):
            raise ConfigError(
                f"two tools are named '{twice[0]}'" if twice else "there are no tools",
                where="Tools",
                hint="give functions with names of their own, or an environment_factory",
            )
        self.functions = dict(zip(names, functions, strict=True))
        self.environment_factory, self.read_calls = environment_factory, read_calls

    def __call__(self, episodes: list[Episode], /) -> list[Reply | None]:
        return [self._reply(each) for each in episodes]

    def _reply(self, episode: Episode) -> Reply | None:
        tools = dict(self.functions)
        if self.environment_factory is not None:
            tools |= self._of_object(episode)
        reply = self._answers(tools, episode.turns[-1])
        return None if not reply else _as_reply(episode.prompt, reply)

    def _of_object(self, episode: Episode) -> dict[str, Callable[..., Any]]:
        """The methods of a new object that has seen all turns but the last."""
        assert self.environment_factory is not None
        made = self.environment_factory()
        if hasattr(made, "reset"):
            made.reset(**_those_taken(made.reset, {"prompt": episode.prompt}))
        methods = {
            name: method
            for name, method in inspect.getmembers(made, callable)
            if not name.startswith("_") and name != "reset"
        }
        tools = {**self.functions, **methods}
        for turn, before in zip(episode.turns[:-1], episode.replies, strict=True):
            again = _as_reply(episode.prompt, self._answers(tools, turn))
            if again != before:
                raise EnvironmentCallError(
                    f"{type(made).__name__} answered {before!r:.60} at first, and {again!r:.60} "
                    "when the same turns were played again",
                    where="Tools",
                    hint="let its replies hang on the prompt and the calls alone",
                )
        return methods

    def _answers(self, tools: dict[str, Callable[..., Any]], turn: str) -> list[dict[str, str]]:
        return [
            {"role": "tool", "name": call.name, "content": _run(tools, call)}
            for call in self.read_calls(turn)
        ]


def _run(tools: dict[str, Callable[..., Any]], call: ToolCall) -> str:
    if call.problem:
        return f"error: {call.problem}"
    if call.name not in tools:
        return f"error: there is no tool '{call.name}'; there are {', '.join(sorted(tools))}"
    try:
        return str(tools[call.name](**call.arguments))
    except Exception as error:  # the model gets the message, as from any program that it calls
        return f"error: {type(error).__name__}: {error}"


def _as_reply(prompt: Prompt, answers: list[dict[str, str]]) -> Reply:
    if not isinstance(prompt, str):
        return answers
    return "".join(f"\n<tool_response>\n{a['content']}\n</tool_response>\n" for a in answers)


def _those_taken(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that it has, or all where it takes any."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}
