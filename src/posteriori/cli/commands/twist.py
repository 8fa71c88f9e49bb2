"""`posteriori twist`: train the twist that steers SMC towards a config's target, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.output import print_json, stdout, visible
from posteriori.cli.expected_cost import ask_if_long, of_twist
from posteriori.cli.files.unfinished import Unfinished, offer_resume
from posteriori.cli.options import (
    AsJson,
    ConfigFile,
    OtherSeed,
    Overrides,
    Proposal,
    Quiet,
    Resume,
    Yes,
)
from posteriori.cli.several import single
from posteriori.errors import ConfigError

if TYPE_CHECKING:
    from posteriori.config.check import Plan
    from posteriori.core.settings.training import FitTwistConfig
    from posteriori.samplers.smc.fit_twist import TwistFit


@single
def twist(
    config: ConfigFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the twist goes: a .safetensors file.")
    ],
    steps: Annotated[int | None, typer.Option(min=1, help="Runs of SMC that teach it.")] = None,
    num_samples: Annotated[
        int | None, typer.Option(min=2, help="Particles a prompt and step.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="A twist to go on from.")] = None,
    proposal: Proposal = None,
    seed: OtherSeed = None,
    resume: Resume = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    yes: Yes = False,
) -> int:
    """Train a twist for the target of CONFIG (its table `twist` has the settings).

    The file holds what the twist has learned after each step, whatever stops the run. --resume goes
    on, and ends with the very twist of a run that was never stopped; until then what it needs is in
    a folder beside the file, OUTPUT.unfinished.
    """
    from posteriori.config.check import make_plan

    plan = make_plan(config, overrides or [])
    given = {"steps": steps, "num_samples": num_samples, "seed": seed}
    said = {key: value for key, value in given.items() if value is not None}
    settings = plan.config.twist.model_copy(update=said)
    _check_output(output)
    if not resume:
        hint = "lower --steps or --num-samples, or write [prompts] max_prompts"
        ask_if_long(plan, of_twist(plan, settings), yes=yes, hint=hint)
    learned = _learn(plan, settings, start, proposal, output, resume=resume, quiet=quiet)
    return _show(learned, output, as_json=as_json)


def _check_output(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"the twist cannot go to '{path}'", where="--output", hint="name a .safetensors file"
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"there is no directory '{path.parent}'", where="--output", hint="make it first"
        )


def _learn(
    plan: Plan,
    settings: FitTwistConfig,
    start: Path | None,
    proposal: str | None,
    output: Path,
    *,
    resume: bool,
    quiet: bool,
) -> TwistFit:
    from posteriori.cli.build import build_target, load_policy
    from posteriori.cli.console.progress_bar import count_progress
    from posteriori.config.find_model import find_model
    from posteriori.samplers.smc.fit_twist import fit_twist, new_head
    from posteriori.samplers.smc.twist_head import TwistHead

    path = None if proposal is None else find_model(proposal, Path.cwd(), "--proposal")
    head = None if start is None else TwistHead.load(start)
    unfinished = Unfinished(output)
    target = build_target(plan, quiet=quiet, journal=unfinished.of("moments"), resume=resume)
    by = None if path is None else load_policy(plan, path, target, quiet=quiet)
    head = head or new_head(target, settings)
    done = 0
    with count_progress("twist", quiet=quiet) as on_progress:

        def on_step(record: dict[str, float]) -> None:
            nonlocal done
            done = int(record["step"]) + 1
            head.save(output)
            on_progress(done, settings.steps)

        try:
            learned = fit_twist(
                target,
                proposal=by,
                start=head,
                on_step=on_step,
                journal=unfinished.of("twist"),
                resume=resume,
                config=settings,
            )
        except KeyboardInterrupt as error:
            if not done:
                raise
            offer_resume(quiet=quiet)
            raise Interrupted(
                f"the twist so far is in '{output}': go on from it with --start",
                after=f"{done} of {settings.steps} steps",
            ) from error
    learned.twist.save(output)
    unfinished.done()
    return learned


def _show(learned: TwistFit, output: Path, *, as_json: bool) -> int:
    first, last = (learned.history[at]["effective_share"] for at in (0, -1))
    if as_json:
        print_json(
            {
                "steps": len(learned.history),
                "effective_share_at_first": first,
                "effective_share": last,
                "lm_tokens": learned.cost.lm_tokens,
                "output": str(output),
            }
        )
        return 0
    console = stdout()
    console.print(
        f"effective share of SMC's particles: {first:.3f} at the first step, {last:.3f} at the "
        f"last; {learned.cost.lm_tokens:,} LM tokens",
        soft_wrap=True,
    )
    console.print(f"twist: {visible(str(output))}", soft_wrap=True)
    console.print(
        f'use it: [sample] sampler = "smc", settings = {{ twist = "{visible(str(output))}" }}',
        markup=False,
        soft_wrap=True,
    )
    return 0
