"""`posteriori fit`: fine-tune a policy as a config says, and judge it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .check import Plan, check_fit, make_plan
from .options import AsJson, ConfigFile, Overrides, Quiet
from .output import print_json, stdout, visible
from .read_config import as_settings


def fit(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, load and run nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Fit a policy to the target of CONFIG, evaluate it, and write a report."""
    plan = make_plan(config, overrides or [])
    check_fit(plan, resume=resume)
    if dry_run:
        return _show_plan(plan, as_json=as_json)
    return _run(plan, resume=resume, as_json=as_json, quiet=quiet)


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
    per_step = min(fit.prompts_per_step or prompts, prompts)
    return (
        f"{fit.objective}, {fit.steps} steps of {per_step} of {prompts} prompts x "
        f"{fit.num_samples} draws of at most {config.max_new_tokens} tokens, policy "
        f"'{fit.policy}' from prior '{plan.prior}'; then {config.evaluate.num_samples} draws a "
        f"prompt to evaluate it; all into '{plan.policy.parent}'"
    )


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _run(plan: Plan, *, resume: bool, as_json: bool, quiet: bool) -> int:
    from ..report import PolicyResult, write_report
    from ..train.loop import fit as run_fit
    from ..train.run_dir import versions
    from .build import about, build_target
    from .judge import evaluation_json, judge, show, write_evaluation
    from .progress import fit_progress, hush_transformers, status

    config, folder = plan.config, plan.policy.parent
    assert config.fit is not None
    objective, steps = config.fit.objective, config.fit.steps
    with status(f"loading '{plan.prior}'", quiet=quiet):
        target = build_target(plan)
    hush_transformers()
    with fit_progress(objective, steps, quiet=quiet) as on_step:
        result = run_fit(
            target,
            objective,
            output_dir=folder,
            resume=resume,
            on_step=on_step,
            config=about(plan),
            **config.fit.model_dump(exclude={"objective"}),
        )
    judging = config.evaluate.model_dump()
    reports = judge(
        target, {"prior": target.prior, objective: result.policy}, **judging, quiet=quiet
    )
    evaluation = evaluation_json(reports, **judging, output_dir=str(folder))
    write_evaluation(folder / "evaluation.json", evaluation)
    description = f"{objective}, {steps} steps"
    report = write_report(
        folder / "report.html",
        title=f"{objective} on {plan.config.prior.path}",
        target=target,
        results=[PolicyResult(objective, reports[objective], result.history, description)],
        prior=PolicyResult("prior", reports["prior"], [], "where the policy started"),
        config=config.model_dump(mode="json", exclude_none=True),
        versions=versions(),
    )
    code = show(reports, evaluation, title=description, as_json=as_json)
    if not as_json:
        stdout().print(f"policy: {plan.policy}\nreport: {report}", soft_wrap=True)
    return code
