"""`fit`: what a run is to be is checked and found, and then it is run."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from posteriori.core.default_progress import shown
from posteriori.core.progress import Progress
from posteriori.core.protocols import TrainableLM
from posteriori.core.registry import make
from posteriori.core.settings.combined import combined
from posteriori.core.settings.keywords import FitKeywords
from posteriori.core.settings.strict import Strict
from posteriori.core.settings.training import FitConfig, budget_of
from posteriori.core.target import Target
from posteriori.core.together import on_every_process
from posteriori.core.types import Prompt
from posteriori.diagnostics.prompt_sample import sampled_prompts
from posteriori.distributed.exchange import agree, by_first
from posteriori.distributed.world import is_first
from posteriori.errors import ConfigError
from posteriori.objectives.base import Objective
from posteriori.objectives.preference.pairs import Pairs
from posteriori.runs.directory import jsonable, refuse_taken
from posteriori.runs.followed import opened
from posteriori.runs.target_fingerprint import fingerprint
from posteriori.train.monitor.evaluator import Evaluator, evaluation_samples
from posteriori.train.monitor.held_out import held_out_target
from posteriori.train.monitor.pair_metrics import pair_figures
from posteriori.train.monitor.periodic_evaluation import (
    EvaluationCallback,
    Note,
    PeriodicEvaluation,
)
from posteriori.train.monitor.trackers import Trackers

from .budget import check_prices, find_budget, recorded_budget, within
from .default_objective import AUTO, default_objective, recorded_objective
from .overwrite import remove_run
from .peft_config import with_lora_config
from .reported import written_report
from .settings_checks import check_idle, check_trackers
from .trainer import Fit as Fit
from .trainer import StepCallback, Trainer


def to_stderr(text: str) -> None:
    """Where notes go by default, once for all processes."""
    if not is_first():
        return
    sys.stderr.write(f"{text}\n")


@on_every_process
def fit(
    target: Target,
    objective: str | Objective = AUTO,
    *,
    config: FitConfig | None = None,
    objective_settings: Mapping[str, Any] | Strict | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: bool = False,
    held_out: Target | Sequence[Prompt] | None = None,
    on_step: StepCallback | None = None,
    on_evaluation: EvaluationCallback | None = None,
    on_note: Note = to_stderr,
    on_search: Progress | None = None,
    record: Mapping[str, Any] | None = None,
    **settings: Unpack[FitKeywords],
) -> Fit:
    """Fine-tune a policy, starting as the target's prior, by gradient steps on an objective.

    `objective` is a name (`posteriori ls objectives`) with the settings of that algorithm, or an
    `Objective`. "auto" is `soft_q`, or `rloo` or `dpg` where the evidence is slow: see
    `default_objective`. `settings` are the fields of `posteriori.FitConfig`, and `config` is one
    (`config=FitConfig(steps=200)` is `steps=200`; a key that both have is an error). `record` is
    plain data that the run keeps beside them. The settings are:

    steps; num_samples, draws per prompt and step; prompts_per_step (default: all, at most 64);
    max_prompts, of which a budget is found and the policy judged (default: 256); learning_rate
    ("auto", or a number) and first_rate, where "auto" begins its search; warmup_steps; decay
    ("late", the default of "auto", "linear", that of a number, "cosine", "none"); max_grad_norm;
    weight_decay; policy ("full", "lora" or a `peft.LoraConfig`) and lora; micro_batch_size, which
    bounds memory and leaves the gradient as it is; checkpoint_every (default: a tenth of the run)
    and keep_checkpoints; replay, the number of earlier steps whose draws join each step, where the
    objective allows it (default: the objective's own); seed.

    The policy of the result is the last one, unless draws made on the way show that an earlier one,
    or the prior, was nearer to the target (`selection`): `findings` say so.

    kl_budget (nats) or reward_target stand in for the evidence's beta, which is then left out: it
    is the beta whose posterior has that KL to the prior, or that mean reward, on the frontier of
    `budget_samples` draws of the prior per prompt, and annealed ones up to `budget_stages` times
    (`posteriori.frontier`), found before training.

    evaluate_every (steps; 0, the default: never) has `posteriori.evaluate` judge the policy on the
    way, on the prompts of `held_out` (a list, or `target.asking(prompts, columns)`; the training
    prompts if left out), by `evaluate_samples` draws per prompt (default: a 25th of those
    trained on). on_finding says what follows if it finds the run to diverge or collapse, "off",
    "warn" or "stop". tracker names "tensorboard", "wandb", "trackio" or "mlflow", or several.

    With `output_dir` the run keeps its config, versions, metrics, checkpoints and policy there;
    `resume=True` goes on from the newest checkpoint and ends, on CPU, with the very weights of a
    run that was never stopped. It is refused for another target: other weights of the prior,
    prompts, columns, evidence or code of the functions behind it. One process at a time writes to
    the directory, and a damaged checkpoint is set aside for the one before it.

    `overwrite=True` removes a run that is in `output_dir` first, the files that runs write and
    nothing else. `report=True` evaluates prior and policy after training (2,000 draws per prompt,
    of at most `max_prompts`) and leaves evaluation.json and report.html there.

    Started in several processes (torchrun, accelerate launch), all call it alike: draws and
    gradients are shared out, the first process writes, and the run is that of one process.

    `on_step` sees each step's record, `on_evaluation` each line of
    evaluations.jsonl, `on_note` receives in words which beta was found, and what is wrong, and
    `on_search` counts the passes over draws that find it, stage by stage.

    The gradient of a step is the mean over its draws, whatever the micro-batches. Raises
    `ConfigError` for a wrong setting, `FrontierError` for a budget out of reach, `EvidenceError`
    where the evidence fails, `ObjectiveError` where the objective's divergence is infinite, and
    `NonFiniteError` before an update that is not finite, `CheckpointError` where the directory is
    taken or cannot be written, `MemoryLimitError` where memory runs out for a single completion,
    `StoppedError` for SIGTERM, SIGHUP and SIGUSR1. Whatever stops a run, an exception of `on_step`
    included, a checkpoint of its last good state is left; memory that runs out in a backward pass
    halves the micro-batches.
    """
    if isinstance(config, Mapping):
        # What `record` was called before there was a `FitConfig`.
        config, record = None, {**config, **(record or {})}
    keywords = with_lora_config({**settings}, target.prior)
    checked = combined(FitConfig, config, keywords, "config", "fit")
    if isinstance(objective, str) and objective == AUTO:
        made = None
        if objective_settings:
            raise ConfigError(
                "objective_settings go with an objective's name, and none is given",
                hint='name it, such as fit(target, "soft_q", objective_settings=...)',
            )
    else:
        typed = objective_settings if isinstance(objective_settings, Strict) else None
        by_name = {} if isinstance(objective_settings, Strict) else objective_settings or {}
        made = make("objective", objective, by_name, "objective_settings", typed)
    if output_dir is None and (overwrite or report):
        name = "overwrite" if overwrite else "report"
        raise ConfigError(f"{name}=True needs the run's output_dir", where="fit")
    if overwrite and resume:
        raise ConfigError("overwrite and resume exclude each other", where="fit")
    if overwrite and output_dir is not None:
        _check(target, made, checked, None, resume=False, held_out=held_out is not None)
        by_first(lambda: remove_run(Path(output_dir)))
    _check(target, made, checked, output_dir, resume=resume, held_out=held_out is not None)
    judged = held_out_target(target, held_out)
    budget, asked, search = None, budget_of(checked.kl_budget, checked.reward_target), None
    if asked is not None:
        recorded = None
        if output_dir is not None:
            recorded = by_first(lambda: recorded_budget(output_dir))
        if output_dir is not None:
            search = Path(output_dir) / "budget.unfinished"
        budget = recorded or find_budget(target, checked, on_search, journal=search, resume=resume)
        on_note(f"{asked}: {budget}")
        target, judged = within(target, budget), within(judged, budget)
    if made is None:
        made = _default(target, checked.seed, output_dir, on_note)
    about = {
        "objective": made.name,
        "objective_settings": made.settings.model_dump(mode="json"),
        **checked.recorded(),
        **({} if budget is None else {"budget": asdict(budget)}),
        **(record or {}),
    }
    with contextlib.ExitStack() as stack:
        run = None
        if output_dir is not None:
            made_of = fingerprint(target, None if held_out is None else judged)
            agree("fit", lambda: {**jsonable(about), **made_of})
            run = opened(Path(output_dir), jsonable(about), made_of, resume=resume)
            stack.callback(run.close)
            if search is not None and run.writes:
                # Its result is in config.json now.
                shutil.rmtree(search, ignore_errors=True)
            for note in run.notes:
                on_note(note)
        periodic_evaluation = None
        if checked.evaluate_every:
            judged = sampled_prompts(judged, checked.max_prompts, checked.seed)
            samples = evaluation_samples(checked, len(target.prompts), len(judged.prompts))
            evaluator = Evaluator(judged, samples, checked.seed)
            periodic_evaluation = PeriodicEvaluation(
                evaluator, checked, run, on_note, on_evaluation
            )
        trainer = Trainer(target, made, checked, run, on_step, periodic_evaluation, on_note)
        if checked.tracker and is_first():
            cpu = trainer.policy.device.type == "cpu"
            trackers = Trackers(checked.tracker, run and run.path, about, cpu=cpu)
            stack.callback(trackers.finish)
            trainer.observers.append(trackers.step)
            if periodic_evaluation is not None:
                periodic_evaluation.observers.append(trackers.evaluation)
        watched = stack.enter_context(shown(f"fit: {made.name}", on_step and _elsewhere))
        if on_step is None and watched is not None and is_first():
            show = watched
            trainer.observers.append(lambda line: show(line["step"] + 1, checked.steps))
        fitted = trainer.run()
    fitted.budget, fitted.objective = budget, made.name
    if isinstance(made, Pairs):
        fitted.pairs = pair_figures(target, made, fitted.policy)
        if fitted.pairs is not None:
            fitted.findings = (*fitted.findings, *fitted.pairs.findings)
    if report and fitted.output_dir is not None:
        of_prior = pair_figures(target, made, target.prior) if isinstance(made, Pairs) else None
        page = written_report(fitted, target, checked.max_prompts, checked.seed, of_prior)
        on_note(f"report: {page}")
    return fitted


def _elsewhere(done: int, total: int) -> None:
    """Whoever takes the steps shows them as well."""
    del done, total


def _default(target: Target, seed: int, output_dir: str | Path | None, on_note: Note) -> Objective:
    """The default objective: what the run in `output_dir` has, if it has begun."""
    name = None
    if output_dir is not None:
        name = by_first(lambda: recorded_objective(output_dir))
    if name is None:
        name, why = default_objective(target, seed)
        on_note(f"objective: {name} ({why})")
    return make("objective", name, {}, "objective_settings")


def _check(
    target: Target,
    made: Objective | None,
    checked: FitConfig,
    output_dir: str | Path | None,
    *,
    resume: bool,
    held_out: bool,
) -> None:
    """All that can be wrong with a run before anything is drawn."""
    if checked.replay and made is not None and not made.replays:
        raise ConfigError(
            f"'{made.name}' cannot use draws of earlier steps (replay = {checked.replay})",
            hint="set replay to 0",
        )
    if not isinstance(target.prior, TrainableLM):
        raise ConfigError(
            f"the prior is a {type(target.prior).__name__}, which cannot be trained",
            hint="use a CausalLM (posteriori.load) or a TabularLM",
        )
    if resume and output_dir is None:
        raise ConfigError("resume=True needs the run's output_dir")
    check_idle(checked, held_out=held_out, keeps=output_dir is not None)
    check_trackers(checked.tracker, output_dir)
    check_prices(target, budget_of(checked.kl_budget, checked.reward_target))
    if output_dir is not None and not resume:
        by_first(lambda: refuse_taken(Path(output_dir)))
