"""Evaluation of a policy while it is trained, which leaves its training as it is."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from posteriori.core import reliability
from posteriori.core.draw import draw
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.call_context import CallContext, TrainerState, calling_within
from posteriori.core.seeds import derive, generator, undisturbed
from posteriori.core.settings.training import FitConfig, prompts_per_step
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.diagnostics.evaluate.evaluate import Report, evaluate
from posteriori.runs.directory import estimate_json, finding_json, jsonable

FIGURES = (
    *("elbo", "log_z", "kl_to_target", "kl_to_prior", "entropy", "mean_reward"),
    *("wasted_nats", "ess"),
)
"""What is recorded of each evaluation, where `evaluate` has it."""

_SHARE = 25
_FEWEST = 8


class Evaluator:
    """`posteriori.evaluate` of a policy that changes, by the same draws of the prior every time.

    They are drawn and scored once, at the first evaluation; an evaluation
    then takes `num_samples` draws of the policy a prompt, their log-prior and log-evidence, and the
    policy's log-prob of the prior's draws. It leaves the global random streams where they were and
    logs into a context of its own, so a run is the same, bit for bit, with and without it. The
    errors of two evaluations are not independent: they share the prior's draws.
    """

    def __init__(self, target: Target, num_samples: int, seed: int) -> None:
        self.target, self.num_samples, self.seed = target, num_samples, seed

    @cached_property
    def prior_draws(self) -> Draws:
        stream = generator(self.seed, "watch", "prior")
        return draw(self.target, self.target.prior, self.num_samples, stream)

    def look(self, policy: LanguageModel, step: int, max_steps: int = 0) -> Report:
        """The figures and findings of `policy` after `step` steps."""
        with undisturbed(), calling_within(CallContext(TrainerState(step, max_steps))):
            return evaluate(
                self.target,
                policy,
                self.num_samples,
                derive(self.seed, "watch", step),
                prior_draws=self.prior_draws,
            )


def trusted(report: Report, name: str) -> bool:
    """Whether a figure may be taken at its standard error (`core.reliability.trusted`)."""
    return reliability.trusted(name, report[name], report.findings)


def evaluation_samples(settings: FitConfig, num_prompts: int, num_held_out: int) -> int:
    """Draws per prompt of an evaluation, unless they are given: a twenty-fifth of the draws that
    are trained on between two evaluations, at least 8. Evaluating a draw costs less than training
    on it."""
    if settings.evaluate_samples is not None:
        return settings.evaluate_samples
    per_step = settings.num_samples * prompts_per_step(settings.prompts_per_step, num_prompts)
    between = settings.evaluate_every * per_step
    return max(_FEWEST, between // (_SHARE * num_held_out))


def line_of(report: Report, step: int, start: float) -> dict[str, Any]:
    """A line of evaluations.jsonl."""
    return jsonable(
        {
            "step": step,
            **{name: estimate_json(report[name]) for name in FIGURES if name in report},
            "findings": [finding_json(finding) for finding in report.findings],
            "seconds": time.perf_counter() - start,
        }
    )
