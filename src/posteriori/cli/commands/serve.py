"""`posteriori serve`: a config's target and sampler behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from posteriori.cli.complete import samplers
from posteriori.cli.console.output import stderr, visible
from posteriori.cli.options import ConfigFile, Overrides, Proposal, Quiet
from posteriori.cli.several import single
from posteriori.config.check import Plan, find_model, make_plan
from posteriori.config.choice import Choice
from posteriori.errors import ConfigError

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@single
def serve(
    config: ConfigFile,
    sampler: Annotated[
        str | None,
        typer.Option(help="A name of `posteriori ls samplers`.", autocompletion=samplers),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name for clients; the config file's if left out."),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Draws weighed per prompt (importance, smc); the config's."),
    ] = None,
    proposal: Proposal = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="A file of API keys, one per line; or set POSTERIORI_SERVE_KEYS."),
    ] = None,
    without_keys: Annotated[
        bool,
        typer.Option("--without-keys", help="Accept every client that reaches another --host."),
    ] = False,
    running: Annotated[int, typer.Option(min=1, max=256, help="Requests drawn for at once.")] = 16,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; then 429.")] = 256,
    share_seeded: Annotated[
        bool,
        typer.Option(
            "--share-seeded", help="Batch requests with a seed too: the same draws up to rounding."
        ),
    ] = False,
    deadline: Annotated[
        float, typer.Option(min=0.001, help="Seconds from a request to its answer; then 504.")
    ] = 120.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that begun requests have at the end.")
    ] = 30.0,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> int:
    """Serve draws of the target of CONFIG: /v1/completions, /v1/chat/completions, /v1/models,
    /health, /metrics, and a page at /.

    Each answer says what its draws are: the guarantee, log Z, effective draws, findings. SIGTERM
    ends the server after the requests that it has begun.
    """
    _check_installed()
    plan = make_plan(config, overrides or [])
    choice = _choice(plan, sampler)
    from posteriori.serve.keys import VARIABLE, is_loopback, read_keys
    from posteriori.serve.settings import ServeConfig

    allowed = read_keys(keys)
    if not allowed and not is_loopback(host) and not without_keys:
        raise ConfigError(
            f"other machines reach {host}, and no API key is asked for",
            where="--host",
            hint=f"give --keys FILE or set {VARIABLE}, or accept every client by --without-keys",
        )
    settings = ServeConfig(
        name=name or plan.file.stem,
        num_samples=num_samples or plan.config.sample.num_samples,
        running=running,
        waiting=waiting,
        share_seeded=share_seeded,
        deadline=float(deadline),
        drain_seconds=float(drain),
    )
    made = choice.make()
    path = _proposal(plan, proposal)
    from posteriori.serve.run import listen

    # Before a model is loaded: the address may be taken.
    at = listen(host, port)
    try:
        from posteriori.cli.build import build_target, load_policy
        from posteriori.serve.app import Server
        from posteriori.serve.run import serve as run_server

        target = build_target(plan, quiet=quiet)
        model = None if path is None else load_policy(plan, path, target, quiet=quiet)
        hosts = None if allowed or not is_loopback(host) else _own_names(host)
        served = Server(target, made, settings, model, allowed, hosts)
        where = f"http://{f'[{host}]' if ':' in host else host}:{at.getsockname()[1]}"

        def ready() -> None:
            if not allowed and not is_loopback(host):
                stderr().print(
                    "warning: every client that reaches this address is accepted, without a key"
                )
            if not quiet:
                words = f"serving '{settings.name}' by {made.name} ({made.guarantee}) at {where}"
                stderr().print(visible(words), soft_wrap=True)

        run_server(served, at, ready)
    finally:
        at.close()
    return 0


def _check_installed() -> None:
    missing = [each for each in _NEEDED if importlib.util.find_spec(each) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} is not installed",
            where="posteriori serve",
            hint="pip install 'posteriori[serve]'",
        )


def _choice(plan: Plan, sampler: str | None) -> Choice:
    choice, where = plan.sampler, f"{plan.file}: sample.sampler"
    if sampler is not None and sampler != plan.config.sample.sampler:
        # The config's settings are of the other algorithm.
        choice, where = replace(choice, name=sampler, table={}), "--sampler"
    choice.check(where)
    return choice


def _proposal(plan: Plan, named: str | None) -> str | None:
    if named is not None:
        return find_model(named, Path.cwd(), "proposal")
    of_config = plan.config.sample.proposal
    return None if of_config is None else find_model(of_config, plan.folder, "proposal")


def _own_names(host: str) -> frozenset[str]:
    return frozenset(("localhost", "127.0.0.1", "::1", host.lower()))
