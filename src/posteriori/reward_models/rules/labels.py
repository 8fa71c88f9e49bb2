"""Labelled violations: which rule a completion keeps, and which it breaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from posteriori.core.occurrence import Prompt
from posteriori.data.given_numbers import finite, in_short
from posteriori.data.is_prompt import is_prompt
from posteriori.data.rows import rows_of
from posteriori.errors import DataError

_COLUMNS = ("prompt", "completion", "rule", "violated")
_EXAMPLE = '{"prompt": "...", "completion": "...", "rule": "polite", "violated": true}'


class RuleLabel(NamedTuple):
    """`violated` is the probability that the completion breaks the rule, 0 or 1 of most labels."""

    prompt: Prompt
    completion: str
    rule: str
    violated: float
    where: str


def read_rule_labels(source: Any) -> dict[str, list[RuleLabel]]:
    """Rows of prompt, completion, rule, violated, from any source of rows, by rule.

    `violated` is true or false, or a probability in [0, 1]. Raises `DataError` with the row for
    what is no label, and for a rule that no row breaks, or none keeps.
    """
    found: dict[str, list[RuleLabel]] = {}
    for where, row in rows_of(source, "labels"):
        label = _label(row, where)
        found.setdefault(label.rule, []).append(label)
    if not found:
        raise DataError("no labels", where="labels", hint=f"write rows such as {_EXAMPLE}")
    for rule, labels in found.items():
        for broken, word in ((True, "breaks"), (False, "keeps")):
            if not any((each.violated > 0.5) == broken for each in labels):
                raise DataError(
                    f"of {len(labels)} labels of the rule '{rule}' none {word} it",
                    where=labels[0].where,
                    hint="label some of both, so that there is something to distinguish",
                )
    return found


def _label(row: Mapping[str, Any], where: str) -> RuleLabel:
    for name in _COLUMNS:
        if row.get(name) is None:
            raise DataError(f"the row has no '{name}'", where=where, hint=f"write {_EXAMPLE}")
    prompt, completion, rule, violated = (row[name] for name in _COLUMNS)
    if not is_prompt(prompt):
        raise DataError(
            f"'prompt' is {str(prompt)[:40]!r}", where=where, hint="write a text, or messages"
        )
    for name, text in (("completion", completion), ("rule", rule)):
        if not (isinstance(text, str) and text.strip()):
            raise DataError(
                f"'{name}' is {str(text)[:40]!r}, not a text", where=where, hint=f"write {_EXAMPLE}"
            )
    chance = float(violated) if isinstance(violated, bool) else finite(violated)
    if chance is None or not 0.0 <= chance <= 1.0:
        raise DataError(
            f"'violated' is {in_short(violated)}",
            where=where,
            hint="write true or false, or a probability in [0, 1]",
        )
    return RuleLabel(prompt, completion, rule, float(chance), where)
