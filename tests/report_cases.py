"""Reports to render: a real one from a table, and ones made up of whatever breaks pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import posteriori as po
from posteriori.core.occurrence import Prompt
from posteriori.core.types import Cost, Draws, Estimate, Finding
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.report import PolicyResult, Subject
from posteriori.report.result import SamplerNote
from posteriori.runs.draw_records import Drawn

HOSTILE = (
    "<script>document.title = 'owned'</script>",
    "</script></style></td></table><img src=x onerror=\"document.title='owned'\">",
    "<a href=\"javascript:document.title='owned'\" onclick='alert(1)'>click</a>",
    "{{ 7 * 7 }} {% raw %} ${document.title} `${1}` $x^2$ \\(x\\) [/b] [bold red]",
    "\x1b[31mred\x1b[0m nul \x00 bell \x07 tab \t delete \x7f c1 \x9b",
    "left \u202e right-to-left override \u2066 isolate \ufeff mark \u2028 separator",
    "emoji \U0001f600 \u65e5\u672c\u8a9e \u0627\u0644\u0639 lone \ud83d surrogate \uffff",
    "two\nlines\r\nand a <!-- comment --> ]]> &lt;escaped&gt; &#x3c;",
    "<svg onload=alert(1)><style>*{display:none}</style><base href=//evil.example>",
    "",
)


def estimate(value: float, error: float = 0.1, kind: str = "unbiased", num: int = 100) -> Estimate:
    return Estimate(value, error, kind, num)  # type: ignore[arg-type]


def report_of(
    texts: Sequence[str],
    prompts: Sequence[Prompt] = ("",),
    rewards: Sequence[float] | None = None,
    findings: Sequence[Finding] = (),
    log_prob: float = -3.0,
    **figures: Estimate,
) -> Report:
    """A report on draws with these very texts: `texts[i]` answers prompt i modulo their number."""
    lm = po.TabularLM.random(["<eos>", "a"], 1)
    drawn = lm.completions([""], [[1]] * len(texts))

    def decode(ids: list[list[int]]) -> list[str]:
        # Each row of a selection carries the number of its text as its only token.
        return [texts[row[0]] for row in ids]

    completions = replace(
        drawn,
        prompt_set=tuple(prompts),
        prompt_ids=tuple(() for _ in prompts),
        prompt_index_N=torch.arange(len(texts)) % len(prompts),
        tokens_NL=torch.arange(len(texts))[:, None],
        decode=decode,
    )
    log_prob_N = torch.full((len(texts),), log_prob, dtype=torch.float64)
    reward_N = torch.tensor(rewards or [0.5] * len(texts), dtype=torch.float64)
    draws = Draws(completions, log_prob_N, log_prob_N, reward_N, reward_N, Cost(10, 5, 0.5))
    known = {
        "kl_to_target": estimate(0.421, 0.052, "consistent"),
        "entropy": estimate(5.0),
        "unique_fraction": estimate(0.9, 0.01, "heuristic"),
        "mean_reward": estimate(0.5),
        "kl_to_prior": estimate(1.5),
        "elbo": estimate(-1.0),
        "log_z": estimate(-0.5, 0.1, "lower_bound"),
    }
    return Report({**known, **figures}, findings, draws, Cost(100, 50, 2.5))


def policy_of(
    name: str,
    texts: Sequence[str] = ("one", "two"),
    rewards: Sequence[float] | None = None,
    **settings: Any,
) -> PolicyResult:
    history = settings.pop("history", some_history())
    description = settings.pop("description", "made up")
    return PolicyResult.of(
        name, report_of(texts, rewards=rewards, **settings), history, description
    )


def subject_of(
    results: Sequence[PolicyResult],
    prior: PolicyResult | None = None,
    prompts: Sequence[Prompt] = ("",),
    **changes: Any,
) -> Subject:
    return Subject(
        **{
            "title": "A title",
            "about": "Made up.",
            "results": results,
            "prior": prior,
            "prompts": dict(enumerate(prompts)),
            "num_prompts": len(prompts),
            "settings": {"run": {"fit": {"steps": 3}}},
            "versions": {"run": {"python": "3"}},
            **changes,
        }
    )


def some_history(steps: int = 20) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "entropy": 5.0 * math.exp(-step / 10),
            "elbo": -2.0 + step / 20,
            "mean_reward": step / 20,
            "draws": 16,
            "lm_tokens": 320,
            "seconds": 0.25,
        }
        for step in range(steps)
    ]


COLLAPSED = Finding("warn", "collapsed", "It repeats itself.", "Raise beta.")


def sampler_of(
    name: str,
    texts: Sequence[str] = (),
    *,
    description: str = "made up",
    of_target: bool = True,
    why: str = "",
    **figures: Estimate,
) -> PolicyResult:
    """A sampler with these very draws; with no place in the plane where there is a `why`."""
    known = {"mean_reward": estimate(0.7)} | ({} if why else {"kl_to_prior": estimate(1.0)})
    draws = report_of(texts).draws if texts else None
    return PolicyResult(
        name,
        {**known, **figures},
        [],
        description,
        drawn=Drawn() if draws is None else Drawn.of(draws),
        num_draws=len(texts),
        sampler=SamplerNote("exact" if of_target else "heuristic", of_target, "seed = 0", why),
    )
