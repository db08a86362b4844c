"""What all commands share: the app, exit codes, arguments, tables and progress bars."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text
from typer.core import TyperGroup

from distwatch import __version__
from distwatch.text import printable

#: The exit code of what distwatch refuses.
REFUSED = 1

#: Characters of a line in a pipe or a file.
WIDEST = 100_000

#: That of ``tail`` after Ctrl-C, which a script can tell from the end of the run.
INTERRUPTED = 130

EXIT_CODES = "Exit codes: 0 success, 1 refused, with the reason on stderr, 2 bad usage."


def _complete_phase(incomplete: str) -> list[str]:
    from distwatch.records import PHASES

    return [phase for phase in PHASES if phase.startswith(incomplete)]


def the_run(given: str) -> str:
    """The run at a path or URL; of several in a folder, or of a pattern, the newest.

    Which of several it is, is said on stderr. Anything else is returned unchanged, for the
    command to refuse.
    """
    from distwatch.errors import DistwatchError
    from distwatch.store.finding import runs_at

    try:
        found = runs_at(given)
    except (DistwatchError, OSError):
        return given
    if not found:
        return given
    if len(found) > 1:
        line = f"{found[0].name}: the newest of {len(found)} runs in {given}"
        typer.echo(f"distwatch: {printable(line)}", err=True)
    return str(found[0].address)


def runs_meant(context: typer.Context, given: Any) -> Any:
    """Apply `the_run` to an argument that names one run or several."""
    if context.resilient_parsing or given is None:
        return given
    return the_run(given) if isinstance(given, str) else [the_run(each) for each in given]


RunArgument = Annotated[
    str,
    typer.Argument(
        callback=runs_meant,
        help="The path or URL that was given to Watch; or a folder of runs, or a pattern such "
        "as 'runs/*digits*', for the newest of them.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, for programs.")
]
ScriptArgument = Annotated[
    str,
    typer.Argument(
        metavar="SCRIPT",
        help="The script, run by this Python as 'python SCRIPT ARGS' would; with -m, the name "
        "of a module.",
        show_default=False,
    ),
]
ScriptsArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARGS", help="Everything after the script is the script's.", show_default=False
    ),
]
ModuleOption = Annotated[
    bool, typer.Option("-m", help="SCRIPT is the name of a module, as in python -m.")
]
PhaseOption = Annotated[
    str | None,
    typer.Option(
        help="train, test, predict or train_on_batch; by default train, if it was recorded.",
        autocompletion=_complete_phase,
    ),
]
RulesOption = Annotated[
    str | None,
    typer.Option(
        "--rules",
        metavar="FILE",
        help="A YAML file whose 'rules' name rules of your own (file.py:name): ask these, "
        "too. A Watch's configuration is one.",
    ),
]
SignalsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Only signals of this name, with or without its kind, as a glob; may be given "
        "several times.",
    ),
]


def rules_in(file: str | None) -> list[Any]:
    """The rules of the user's own in a file of `RulesOption`.

    Raises:
        ConfigError: the file is wrong, or a rule cannot be imported.
    """
    from distwatch.actions import own_rules
    from distwatch.config import read_rules

    return own_rules(choice.resolved() for choice in read_rules(file)) if file else []


class _InOrder(TyperGroup):
    """Lists commands in the order of `COMMANDS`; typer's own lists groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        from distwatch.cli import COMMANDS

        return list(COMMANDS)


app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="See what changes inside a Keras model, batch by batch, on every replica.",
    epilog=EXIT_CODES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distwatch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    pass


def examples(*commands: str, further: str = EXIT_CODES) -> str:
    """The text below the options in ``--help``: a line for each example, the exit codes."""
    shown = "".join(f"\n\n  {command}" for command in commands)
    return f"Examples:{shown}\n\n{further}"


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on stderr, removed at the end, and not shown without a terminal."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    # Older versions of rich end a bar that is disabled by an empty line.
    with contextlib.nullcontext() if bar.disable else bar:
        yield bar


def wide_console() -> Console:
    """A console on stdout that cuts no line of what goes into a pipe or a file."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDEST
    return console


def listing(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table whose cells may hold untrusted text."""
    # Where it is too wide, what is in a cell is continued below, and nothing is left out.
    columns = [Column(heading, overflow="fold") for heading in headings]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def safe(text: str) -> str:
    """Text from a store, shown literally: no markup, no escape sequences."""
    return escape(printable(text))
