"""`fit`: what a run is to be is checked and found, and then it is run."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from posteriori.core.hooks import DrawsElsewhere
from posteriori.core.occurrence import Prompt
from posteriori.core.processes.together import on_every_process
from posteriori.core.protocols import TrainableLM
from posteriori.core.registry import make
from posteriori.core.run.default_progress import shown
from posteriori.core.run.progress import Progress
from posteriori.core.settings.combined import combined
from posteriori.core.settings.keywords import FitKeywords
from posteriori.core.settings.strict import Strict
from posteriori.core.settings.training import FitConfig, budget_of
from posteriori.core.target import Target
from posteriori.data.given_arguments import named_arguments
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

from .budget import check_betas, find_budget, recorded_budget, within
from .preparation.default_objective import AUTO, default_objective, recorded_objective
from .preparation.overwrite import remove_run
from .preparation.peft_config import with_lora_config
from .preparation.sampler_checks import check_sampler, recorded_sampler
from .preparation.settings_checks import check_idle, check_trackers
from .preparation.starting import in_words, starting_model, without_start
from .reported import written_report
from .trainer import Fit as Fit
from .trainer import StepCallback, Trainer


def to_stderr(text: str) -> None:
    """Where notes go by default, once for all processes."""
    if not is_first():
        return
    sys.stderr.write(f"{text}\n")


@named_arguments
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
    sampler: DrawsElsewhere | None = None,
    record: Mapping[str, Any] | None = None,
    **settings: Unpack[FitKeywords],
) -> Fit:
    """Fine-tune a policy, which starts as the target's prior, by gradient steps on an objective.

        step: draw y ~ proposal,  score log p~(y|c),  theta -= rate x grad mean of loss(y)

    The gradient of a step is the mean over its draws, whatever the micro-batches. The policy of the
    result is the last one, unless draws made on the way show that an earlier one, or the prior, was
    nearer to the target: `findings` say so. On the CPU a run is reproducible from `seed` bit for
    bit, also where it was stopped and resumed.

    With `kl_budget` (nats) or `reward_target` the evidence's beta is left out: it is found before
    training, on the frontier (`posteriori.frontier`). With `evaluate_every`, `posteriori.evaluate`
    judges the policy on the way. Started in several processes (torchrun, accelerate launch), all
    call it alike: draws and gradients are shared out, the first process writes, and the run is that
    of one process. Whatever stops a run, a checkpoint of its last good state is left; memory that
    runs out in a backward pass halves the micro-batches.

    Args:
        target: the target.
        objective: a name (`posteriori ls objectives`) or an `Objective`. "auto" is `soft_q`, or
            `rloo` or `dpg` where the evidence is slow.
        config: the settings, as one `FitConfig`.
        objective_settings: the algorithm's own, by name or as one object.
        output_dir: keeps config, versions, metrics, checkpoints and policy. One process at a time
            writes to it.
        resume: go on from the newest checkpoint of `output_dir` that is whole. It is refused for
            another target: other weights, prompts, columns, evidence, or code of functions.
        overwrite: remove the run that is in `output_dir` first: files that runs write, nothing
            else.
        report: evaluate prior and policy after training (2,000 draws per prompt), and leave
            evaluation.json and report.html.
        held_out: prompts that evaluations on the way are made on: a list, or
            `target.with_prompts(prompts, columns)`; default: those of training.
        on_step: sees each step's record.
        on_evaluation: sees each evaluation made on the way.
        on_note: receives in words which beta was found, and what is wrong; default: standard error.
        on_search: counts the passes over draws that find beta, stage by stage.
        sampler: what draws in place of the policy (or the prior) itself: a `posteriori.Engine`. Its
            draws are weighed by pi/q; each record has engine_kl and engine_ess.
        record: plain data that the run keeps beside its settings.
        settings: the fields of `FitConfig`, as keywords: steps, num_samples, learning_rate, seed,
            ..; `policy` may be a `peft.LoraConfig`. A policy that starts as another model than the
            prior: `policy=lm`, or `start=lm` (or a path) beside policy="lora".

    Returns:
        A `Fit`: the policy, a record per step, findings.

    Raises:
        ConfigError: for a wrong setting.
        FrontierError: for a budget out of reach.
        EvidenceError: where the evidence fails.
        ObjectiveError: where the objective's divergence is infinite.
        EngineError: where `sampler` cannot be started, or does not have the policy's weights.
        NonFiniteError: before an update that is not finite.
        CheckpointError: where the directory is taken or cannot be written.
        MemoryLimitError: where memory runs out for a single completion.
        StoppedError: for SIGTERM, SIGHUP and SIGUSR1.

    Example:
        >>> fit = po.fit(target, "rloo", steps=20, num_samples=32, learning_rate=0.2, seed=0)
        >>> exact = po.exact(target)
        >>> before, after = exact.evaluate(prior), exact.evaluate(fit.policy)
        >>> bool(after["kl_to_target"].mean() < before["kl_to_target"].mean())
        True
    """
    if isinstance(config, Mapping):
        # What `record` was called before there was a `FitConfig`.
        config, record = None, {**config, **(record or {})}
    keywords, given = without_start(settings)
    keywords = with_lora_config(keywords, target.prior)
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
        raise ConfigError(
            f"{name}=True needs the run's output_dir",
            where="fit",
            hint=f'write output_dir="runs/name", or leave {name} out',
        )
    if overwrite and resume:
        raise ConfigError(
            "overwrite and resume exclude each other", where="fit", hint="leave out one of them"
        )
    given_too = {
        "held_out": held_out is not None,
        "starts_elsewhere": given is not None or checked.start is not None,
    }
    if overwrite and output_dir is not None:
        _check(target, made, checked, None, resume=False, **given_too)
        by_first(lambda: remove_run(Path(output_dir)))
    _check(target, made, checked, output_dir, resume=resume, **given_too)
    start = starting_model(given, checked.start, target)
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
    check_sampler(sampler, target, made)
    about = {
        "objective": made.name,
        "objective_settings": made.settings.model_dump(mode="json"),
        **checked.recorded(),
        "start": in_words(given, checked.start),
        **({} if budget is None else {"budget": asdict(budget)}),
        **recorded_sampler(sampler),
        **(record or {}),
    }
    with contextlib.ExitStack() as stack:
        run = None
        if output_dir is not None:
            made_of = fingerprint(target, None if held_out is None else judged, start)
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
        trainer = Trainer(
            target, made, checked, run, on_step, periodic_evaluation, on_note, start, sampler
        )
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
        page = written_report(fitted, target, checked.max_prompts, checked.seed, of_prior, start)
        on_note(f"report: {page}")
    return fitted


def _elsewhere(done: int, total: int) -> None:
    """The loop that takes the steps shows them as well."""
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
    starts_elsewhere: bool,
) -> None:
    """All that can be wrong with a run before anything is drawn."""
    if checked.replay and made is not None and not made.replays:
        raise ConfigError(
            f"'{made.name}' cannot use draws of earlier steps (replay = {checked.replay})",
            hint="set replay to 0",
        )
    if not (starts_elsewhere or isinstance(target.prior, TrainableLM)):
        raise ConfigError(
            f"the prior is a {type(target.prior).__name__}, which cannot be trained",
            hint="use a CausalLM (posteriori.load) or a TabularLM, or give one as policy",
        )
    if resume and output_dir is None:
        raise ConfigError(
            "resume=True needs the run's output_dir", hint='write output_dir="runs/name"'
        )
    check_idle(checked, held_out=held_out, keeps=output_dir is not None)
    check_trackers(checked.tracker, output_dir)
    check_betas(target, budget_of(checked.kl_budget, checked.reward_target))
    if output_dir is not None and not resume:
        by_first(lambda: refuse_taken(Path(output_dir)))
