"""The entry point: verbs, exit codes, and errors as one line.

Exit codes: 0 when all is well; 1 when a run failed or a finding says stop; 2 for wrong use or a
wrong config; 130 when interrupted, and 128 + its number for another signal that ends a run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from posteriori import __version__
from posteriori.cli.commands.config import config
from posteriori.cli.commands.demo.demo import demo
from posteriori.cli.commands.doctor import doctor
from posteriori.cli.commands.evaluate import evaluate
from posteriori.cli.commands.fit import fit
from posteriori.cli.commands.frontier import frontier
from posteriori.cli.commands.ls import ls
from posteriori.cli.commands.report import report
from posteriori.cli.commands.reward import reward
from posteriori.cli.commands.rules import rules
from posteriori.cli.commands.sample import sample
from posteriori.cli.commands.serve import serve
from posteriori.cli.commands.sft import sft
from posteriori.cli.commands.simulate_preferences import simulate_preferences
from posteriori.cli.commands.turning_point import turning_point
from posteriori.cli.commands.twist import twist
from posteriori.cli.console.interrupted import Interrupted
from posteriori.cli.console.lasting import lasting_stderr
from posteriori.cli.console.output import visible
from posteriori.cli.console.unexpected import keep_traceback
from posteriori.cli.several import arguments_now, silence, speaker
from posteriori.core.run.signals import Signals, signal_behind
from posteriori.errors import (
    EvidenceError,
    MemoryLimitError,
    NonFiniteError,
    ObjectiveError,
    OutcomeError,
    PosterioriError,
    SamplingError,
    StoppedError,
)

_RUN_FAILED = (
    *(EvidenceError, MemoryLimitError, NonFiniteError, ObjectiveError, OutcomeError),
    SamplingError,
)

_LONGEST = 3000
"""Characters of an error's line."""

_NO_DOCSTRINGS = (
    "Python was started with -OO or PYTHONOPTIMIZE=2, without the docstrings that transformers "
    "reads: leave that out"
)

_INTERRUPTED = 130
"""128 + SIGINT; typer returns it for an interrupt of its own accord."""

app = typer.Typer(
    name="posteriori",
    help="Align language models by Bayesian inference: state a target, pick an algorithm, and see "
    "how far the result is from the target.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
_VERBS = (
    demo,
    frontier,
    turning_point,
    sft,
    fit,
    sample,
    twist,
    evaluate,
    report,
    serve,
    reward,
    rules,
    simulate_preferences,
    ls,
    doctor,
)
for _verb in _VERBS:
    app.command()(_verb)
app.add_typer(config, name="config")


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"posteriori {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """What the `posteriori` command calls."""
    silence()
    try:
        code = run(sys.argv[1:])
    except Exception as error:  # a fault of ours: a person gets a line, and we the traceback
        _complain(keep_traceback(error))
        code = 1
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until exit
        code = code or 1
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # It was closed before the start: what is said goes nowhere, and the work is done.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until exit
    with lasting_stderr():
        try:
            os.getcwd()
        except FileNotFoundError:
            _complain("the current directory has been removed; change to another one")
            return 2
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    signals = Signals()
    arguments_now.set(tuple(arguments))
    try:
        with signals:
            code = app(args=list(arguments), prog_name="posteriori", standalone_mode=False)
    except (Interrupted, StoppedError) as error:
        _complain(str(error))
        return _code_of(signal_behind(error) or signals.raised)
    except PosterioriError as error:
        _complain(str(error))
        return 1 if isinstance(error, _RUN_FAILED) else 2
    except BrokenPipeError:
        # The reader of the output has closed it; nothing more may be written there.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until exit
        return 1
    except OSError as error:
        _complain(_told(error))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if _no_memory(error):
            _complain("memory ran out; set a lower number of samples, or memory_gib")
            return 1
        # typer carries click inside, so its errors for wrong use have no public class to name.
        message = getattr(error, "format_message", None)
        if message is None:
            if sys.flags.optimize > 1:
                _complain(f"{type(error).__name__}: {str(error)[:200]}; {_NO_DOCSTRINGS}")
                return 2
            raise
        _complain(f"{message().rstrip('.')}; see posteriori --help")
        return 2
    if code == _INTERRUPTED:
        _complain("interrupted; nothing was written")
        return _code_of(signals.raised)
    return code if isinstance(code, int) else 0


def _code_of(number: int | None) -> int:
    return _INTERRUPTED if number is None else 128 + number


def _no_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from posteriori.core.run.out_of_memory import is_out_of_memory

    return is_out_of_memory(error)


def _told(error: OSError) -> str:
    what = error.strerror or str(error)
    if error.filename is None:
        return what
    name = str(error.filename)
    shown = name if len(name) <= 200 else f"{name[:200]}..."
    return f"{what}: '{shown}'; check the path and its rights"


def _complain(text: str) -> None:
    line = visible(" ".join(text.split()))
    if len(line) > _LONGEST:
        # It quotes something of the user's that goes on and on.
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    sys.stderr.write(f"error: {speaker()}{line}\n")


if __name__ == "__main__":
    main()
