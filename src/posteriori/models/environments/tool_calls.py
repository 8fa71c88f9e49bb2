"""Calls of tools in a turn's text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


class ToolCall(NamedTuple):
    """Which tool is called, and with what; `problem` where the call cannot be read."""

    name: str
    arguments: Mapping[str, Any]
    problem: str = ""


def calls_in(turn: str) -> list[ToolCall]:
    """Those that are written as most chat templates ask for it (Hermes, Qwen, SmolLM):

    `<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>`, one or several.
    """
    return [_read(written) for written in _CALL.findall(turn)]


def _read(written: str) -> ToolCall:
    try:
        call = json.loads(written)
    except ValueError as error:
        return ToolCall("", {}, f"the call is no JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return ToolCall("", {}, 'a call is {"name": "...", "arguments": {...}}')
    arguments = call.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        return ToolCall(call["name"], {}, "its arguments are no object")
    return ToolCall(call["name"], arguments)
