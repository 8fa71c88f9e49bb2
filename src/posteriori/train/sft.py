"""`sft`: a model is fine-tuned on demonstrations, and judged by those that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Unpack

import torch

from posteriori.core.occurrence import prompt_key
from posteriori.core.protocols import LanguageModel
from posteriori.core.registry import language_model
from posteriori.core.seeds import generator
from posteriori.core.settings.keywords import FitKeywords
from posteriori.core.tensors import ints
from posteriori.data.demonstrations import Demonstration, read_demonstrations
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError
from posteriori.objectives.imitation.sft import SFT, tokenised

from .demonstrated import demonstrated_target
from .fit import StepCallback, fit, to_stderr
from .fit_result import Fit
from .monitor.likelihood import likelihood_figures
from .monitor.periodic_evaluation import Note

FEWEST_ROWS = 20
"""From so many prompts (or rows of one prompt) on some are held out: fewer would judge nothing."""

_OF_DRAWS = frozenset({"num_samples", "prompts_per_step", "evaluate_every", "replay"})


@named_arguments
def sft(
    model: LanguageModel | str | Path,
    data: Any,
    *,
    max_new_tokens: int | None = None,
    completion_only: bool = True,
    epochs: float | None = None,
    rows_per_step: int = 16,
    held_out: float = 0.1,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: StepCallback | None = None,
    on_note: Note = to_stderr,
    record: Mapping[str, Any] | None = None,
    **settings: Unpack[FitKeywords],
) -> Fit:
    """Fine-tune a language model on demonstrations, by maximum likelihood:

        argmin_pi E_data[-log pi(y|c)] = argmin_pi KL(data, pi)

    Supervised fine-tuning as inference: the target is the data's distribution, and what is reported
    is by how many nats per completion KL(data, pi) has fallen, on rows that were held out (the
    entropy of the data, which is unknown, cancels in that). The loop is that of `fit`: adapters,
    checkpoints, resuming, several processes, trackers. Rows of about the same length go together in
    a micro-batch, so nothing is lost to padding and none sees another (what packing is for).

    Args:
        model: the model to begin with, or what `posteriori.load` takes.
        data: rows with TRL's columns: prompt and completion, messages, or text; a file, a data set,
            a table or a list. Each turn of the assistant in `messages` is one row.
        max_new_tokens: tokens at which a completion is cut; left out, the longest of the data.
        completion_only: prompts are given and not learned; without it, strings are learned whole.
        epochs: passes over the rows, in place of `steps`; 1 where both are left out.
        rows_per_step: rows per step.
        held_out: share of the prompts (of the rows, where they have one prompt) that judges.
        output_dir: where the run is kept.
        resume: go on from its newest checkpoint.
        overwrite: remove the run that is there first.
        on_step: sees each step's record.
        on_note: receives in words what is to be known; default: standard error.
        record: plain data that the run keeps beside its settings.
        settings: the fields of `FitConfig`, as in `fit`, without num_samples.

    Returns:
        A `Fit`; its `likelihood` has the held-out nats before and after.

    Raises:
        ConfigError: for a wrong setting.
        DataError: for rows that are no demonstrations.
        ModelError: for a model that cannot be trained.
        CheckpointError: where the directory is taken, or was made from other rows.

    Example:
        >>> rows = [{"prompt": "x", "completion": [1, 0]}, {"prompt": "y", "completion": [2, 0]}]
        >>> fit = po.sft(prior, rows, epochs=20, learning_rate=0.2, on_note=lambda text: None)
        >>> bool(fit.likelihood.after.value < fit.likelihood.before.value)
        True
    """
    check_settings(settings, epochs)
    lm = language_model(model, "model")
    rows = read_demonstrations(data, completion_only=completion_only)
    seed = int(settings.get("seed", 0))
    kept, judging = split_rows(rows, held_out, seed)
    target = demonstrated_target(lm, rows, max_new_tokens)
    steps = settings.get("steps") or steps_of(epochs, len(kept), rows_per_step)
    own = {"epochs": epochs, "held_out": held_out, "completion_only": completion_only}
    fitted = fit(
        target,
        SFT(kept, rows_per_step=rows_per_step),
        output_dir=output_dir,
        resume=resume,
        overwrite=overwrite,
        on_step=on_step,
        on_note=on_note,
        record={"sft": own, **(record or {})},
        **{**settings, "steps": steps, "num_samples": 1},
    )
    judged = tokenised(judging or kept, target, seed)
    fitted.likelihood = likelihood_figures(judged, lm, fitted.policy, held_out=bool(judging))
    fitted.findings = (*fitted.findings, *fitted.likelihood.findings)
    for finding in fitted.likelihood.findings:
        on_note(str(finding))
    return fitted


def check_settings(given: Collection[str], epochs: float | None) -> None:
    """Raises `ConfigError` for settings of `fit` that mean nothing for demonstrations."""
    idle = sorted(_OF_DRAWS.intersection(given))
    if idle:
        raise ConfigError(
            f"{idle[0]} is for draws, and demonstrations are rows",
            where="sft",
            hint="set rows_per_step, steps or epochs",
        )
    if epochs is not None and "steps" in given:
        raise ConfigError("both epochs and steps are given", where="sft", hint="remove one of them")


def steps_of(epochs: float | None, num_rows: int, rows_per_step: int) -> int:
    """Steps of so many passes over the rows; of one where nothing is said."""
    return math.ceil((epochs or 1) * num_rows / rows_per_step)


def split_rows(
    rows: list[Demonstration], share: float, seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Those to train on and those that judge: the rows of a share of the prompts, or of one
    prompt's rows."""
    if not 0 <= share < 1:
        raise ConfigError(
            f"held_out={share} is no share of the rows", where="sft", hint="give one below 1"
        )
    keys = [prompt_key(each.prompt) for each in rows]
    if len(set(keys)) < FEWEST_ROWS:
        keys = [str(at) for at in range(len(rows))]
    distinct = list(dict.fromkeys(keys))
    if not share or len(distinct) < FEWEST_ROWS:
        return rows, []
    order = ints(torch.randperm(len(distinct), generator=generator(seed, "held-out rows")))
    held = {distinct[at] for at in order[: max(1, round(share * len(distinct)))]}
    pairs = list(zip(rows, keys, strict=True))
    return [row for row, key in pairs if key not in held], [
        row for row, key in pairs if key in held
    ]
