"""`report=True`: a run that is evaluated when it is done, with its page beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posteriori.core.protocols import LanguageModel
from posteriori.core.registry import report_of_run
from posteriori.core.target import Target
from posteriori.diagnostics.evaluate.evaluate import evaluate
from posteriori.distributed.exchange import by_first

from .fit_result import Fit
from .monitor.pair_metrics import PairFigures

_NUM_SAMPLES = 2000


def written_report(
    fitted: Fit,
    target: Target,
    max_prompts: int,
    seed: int,
    pairs_of_prior: PairFigures | None = None,
    start: LanguageModel | None = None,
) -> Path:
    """Evaluate prior and policy, and what the policy started as where that is another model, and
    write what `posteriori fit` writes; the path of the page.

    `pairs_of_prior` is how the prior orders the pairs that `fitted.pairs` are about."""
    judging: dict[str, Any] = {
        "num_samples": _NUM_SAMPLES,
        "max_prompts": max_prompts,
        "seed": seed,
    }
    reports = {
        "prior": evaluate(target, target.prior, **judging).with_pairs(pairs_of_prior),
        **({} if start is None else {"start": evaluate(target, start, **judging)}),
        fitted.objective: evaluate(target, fitted.policy, **judging).with_pairs(fitted.pairs),
    }
    folder = fitted.output_dir
    assert folder is not None
    return by_first(lambda: report_of_run(folder, target, reports, {**judging, "posterior": 0}))
