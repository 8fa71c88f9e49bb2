"""Text that is safe to look at: generated strings without control characters, numbers as words."""

from __future__ import annotations

import math
import re
from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.core.types import Estimate

# What a reader cannot see, or what reorders or breaks what is around it: C0 and C1 controls,
# bidirectional marks and overrides, line and paragraph separators, byte-order marks, and halves of
# surrogate pairs, which no file can hold.
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str, limit: int = 2000) -> str:
    """`text` with each invisible character spelt out, cut after `limit` characters."""
    cut = len(text) - limit
    shown = _UNSEEN.sub(_spelt, text[:limit])
    return f"{shown} … ({cut:,} more characters)" if cut > 0 else shown


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str, limit: int = 60) -> str:
    """`visible` text on a single line, for titles and labels."""
    shown = " ".join(visible(text, 4 * limit).split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def prompt_text(prompt: Prompt) -> str:
    """A prompt as a person reads it; a conversation has one line a message."""
    if isinstance(prompt, str):
        return visible(prompt) if prompt else "(empty prompt)"
    lines = [f"{m.get('role', '?')}: {_content(m.get('content', ''))}" for m in prompt]
    return visible("\n".join(lines)) if lines else "(empty conversation)"


_SHORT = 40
"""Characters that a row's label shows whole."""


def prompt_label(prompt: Prompt, limit: int = 60) -> str:
    """A prompt on a single line, by what tells it from others: of a conversation that is not short
    the last question, and what an answer has begun with; the system's message is often the same."""
    whole = one_line(prompt_text(prompt), limit)
    if isinstance(prompt, str) or len(prompt_text(prompt)) <= _SHORT:
        return whole
    asked = [at for at, message in enumerate(prompt) if message.get("role") == "user"]
    shown = prompt[asked[-1] :] if asked else prompt[-1:]
    parts = [_content(message.get("content", "")) for message in shown]
    earlier = "… " if len(asked) > 1 else ""
    return one_line(earlier + " → ".join(part for part in parts if part), limit) or whole


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, dict) else str(part) for part in content]
        return " ".join(part for part in parts if part)
    return str(content)


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits with a true minus sign; what is not finite becomes a word."""
    word = _word(value)
    if word:
        return word
    value += 0.0  # a negative zero becomes a plain one
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", "\u2212")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    shown = f"{value:,.{places}f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return shown.replace("-", "\u2212")


def with_error(estimate: Estimate, *, percent: bool = False) -> str:
    """`0.42 ± 0.05`: as many places as the standard error supports. No ± where there is none."""
    scale, unit = (100.0, "%") if percent else (1.0, "")
    value, error = estimate.value * scale, estimate.standard_error * scale
    if not math.isfinite(value):
        return number(value)
    if not math.isfinite(error) or error == 0 or abs(value) >= 1e7 or error >= 1e7:
        return number(value, 3) + unit
    places = -math.floor(math.log10(error))
    if round(error * 10**places) < 2:
        places += 1
    places = min(max(places, 0), 4)
    shown = f"{round(value, places) + 0.0:,.{places}f}".replace("-", "\u2212")
    error_shown = f"{error:,.{places}f}" if round(error, places) else f"less than 1e\u2212{places}"
    return f"{shown} ± {error_shown}{unit}"


def seconds(value: float) -> str:
    """A duration in the unit that a person would use."""
    if not math.isfinite(value):
        return number(value)
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def _word(value: float) -> str:
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinity"
    return ""
