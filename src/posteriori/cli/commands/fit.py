"""`posteriori fit`: fine-tune a policy as a config says, and judge it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.engine import running_engine
from posteriori.cli.expected_cost import ask_if_long, in_words, of_fit
from posteriori.cli.files.unfinished import Unfinished, say
from posteriori.cli.options import AsJson, ConfigFile, DryRun, Overrides, Overwrite, Quiet, Yes
from posteriori.cli.several import Processes, shared
from posteriori.config.check import Plan, check_fit, make_plan
from posteriori.config.read_config import as_settings
from posteriori.config.target import about
from posteriori.core.settings.training import prompts_per_step


@shared
def fit(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    yes: Yes = False,
    processes: Processes = 1,  # noqa: ARG001 - `shared` takes it
) -> int:
    """Fit a policy to the target of CONFIG, evaluate it, and write a report."""
    plan = make_plan(config, overrides or [])
    check_fit(plan, resume=resume, overwrite=overwrite)
    if dry_run:
        return _show_plan(plan, as_json=as_json)
    if not resume:
        ask_if_long(plan, of_fit(plan), yes=yes, hint="lower steps, num_samples or max_prompts")
    try:
        return _run(plan, resume=resume, overwrite=overwrite, as_json=as_json, quiet=quiet)
    except KeyboardInterrupt as error:
        if not (plan.policy.parent / "config.json").exists():
            raise
        raise Interrupted("go on from the newest checkpoint with --resume") from error


def _show_plan(plan: Plan, *, as_json: bool) -> int:
    settings = as_settings(plan.config.model_dump(mode="json"))
    would_run = _in_words(plan)
    if as_json:
        resolved = {"prior": plan.prior, "output_dir": str(plan.policy.parent)}
        config = plan.config.model_dump(mode="json", exclude_none=True)
        print_json({"config": config, "resolved": resolved, "would_run": would_run})
        return 0
    console = stdout()
    for key, value in settings.items():
        console.print(f"{key} = {visible(_toml(value))}", soft_wrap=True)
    console.print(f"\nwould run: {visible(would_run)}", soft_wrap=True)
    return 0


def _in_words(plan: Plan) -> str:
    config = plan.config
    assert config.fit is not None
    fit, prompts = config.fit, len(plan.data.prompts)
    per_step = prompts_per_step(fit.prompts_per_step, prompts)
    first = ""
    asked = fit.reward_target if fit.kl_budget is None else fit.kl_budget
    if asked is not None:
        first = (
            f"{fit.budget_samples} draws of the prior per prompt to find the beta "
            f"of {plan.budget} = "
            f"{asked:g}; then "
        )
    looks = ""
    if fit.evaluate_every:
        asked = len((plan.held_out or plan.data).prompts)
        looks = f", judged every {fit.evaluate_every} steps on {asked} prompts"
    last = config.evaluate.num_samples
    begins = f"prior '{plan.prior}'" if plan.start is None else f"'{plan.start}'"
    return (
        f"{first}{fit.objective}, {fit.steps} steps of {per_step} of {prompts} prompts x "
        f"{fit.num_samples} draws of at most {config.max_new_tokens} tokens, policy "
        f"'{fit.policy}' from {begins}{looks}; then {last} draws per "
        f"prompt to evaluate it; all into '{plan.policy.parent}'; {in_words(plan, of_fit(plan))}"
    )


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _run(plan: Plan, *, resume: bool, overwrite: bool, as_json: bool, quiet: bool) -> int:
    from posteriori.cli.build import build_held_out, build_target, load_policy
    from posteriori.cli.console.progress_bar import fit_progress, hush_transformers, status
    from posteriori.cli.files.evaluation import evaluation_json, judge, show, write_evaluation
    from posteriori.cli.files.goals import asked_lines, pairs_of
    from posteriori.cli.files.run_report import write_page, write_report_files
    from posteriori.distributed.exchange import by_first
    from posteriori.runs.directory import finding_json
    from posteriori.runs.target_fingerprint import digest
    from posteriori.runs.target_journal import keeping
    from posteriori.train.fit import fit as run_fit
    from posteriori.train.monitor.learnable import NOTHING

    config, folder = plan.config, plan.policy.parent
    assert config.fit is not None
    objective, steps = config.fit.objective, config.fit.steps
    chosen = plan.objective
    record = about(plan)
    if chosen is not None and (written := chosen.written()):
        record["objective_settings"] = written
    if config.fit.ptx is not None:
        record["ptx"] = config.fit.ptx.model_dump(mode="json")
    moments = Unfinished(folder / "moments")
    if overwrite:
        moments.done()
    target = build_target(
        plan, finds_beta=False, quiet=quiet, journal=moments.of("draws"), resume=resume
    )
    held_out = build_held_out(plan, target)
    start = None if plan.start is None else load_policy(plan, plan.start, target, quiet=quiet)
    hush_transformers()
    with (
        running_engine(plan, target) as engine,
        fit_progress(objective, steps, quiet=quiet) as shown,
    ):
        result = run_fit(
            target,
            objective if chosen is None else chosen.make(),
            config=config.fit.model_copy(update={"ptx": plan.ptx}),
            start=start,
            output_dir=folder,
            resume=resume,
            overwrite=overwrite,
            held_out=held_out,
            on_step=shown,
            on_evaluation=shown.evaluated,
            on_note=shown.note,
            on_search=shown.searching,
            sampler=engine,
            record=record,
        )
    assert result.target is not None
    target, stopped, objective = result.target, result.stopped, result.objective
    judging = config.evaluate.model_dump()
    if judging["until"] is None:
        judging = {k: v for k, v in judging.items() if k not in ("until", "max_samples")}
    unfinished = Unfinished(folder / "evaluation")
    models = {"prior": target.prior, objective: result.policy}
    if start is not None:
        models = {"prior": target.prior, "start": start, objective: result.policy}
    what = {"the work": "evaluate", "the policy": digest(result.policy), **judging}
    # What was drawn for an evaluation that has been stopped serves this one, if it is the same.
    journal = unfinished.of(digest(what)[:16])
    with keeping(target, journal, lambda: what, resume=True, on_note=say):
        reports = judge(target, models, **judging, quiet=quiet)
    why: dict[str, Any] = {} if stopped is None else {"stopped": finding_json(stopped)}
    if result.findings:
        why["training_findings"] = [finding_json(each) for each in result.findings]
    pairs = pairs_of(plan, target, models)
    reports = {name: report.with_pairs(pairs.get(name)) for name, report in reports.items()}
    evaluation = evaluation_json(reports, **judging, **why)

    def publish() -> Path:
        write_evaluation(folder / "evaluation.json", evaluation)
        unfinished.done()
        moments.done()
        write_report_files(folder, target, reports)
        with status("drawing the report", quiet=quiet):
            return write_page(folder, card=True)

    report = by_first(publish)
    evaluation["output_dir"] = str(folder)
    code = show(
        reports,
        evaluation,
        title=f"{objective}, {steps} steps",
        as_json=as_json,
        lines=asked_lines(reports),
        against_target=bool(target.evidence) or not pairs,
    )
    if not as_json:
        stdout().print(f"policy: {plan.policy}\nreport: {report}", soft_wrap=True)
        if stopped is not None:
            stdout().print(visible(f"stopped early: {stopped}"), soft_wrap=True)
    learned_nothing = any(each.name in NOTHING and each.level == "stop" for each in result.findings)
    return 1 if stopped is not None or learned_nothing else code
