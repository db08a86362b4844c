"""``distwatch set``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from distwatch.cli.conventions import RunArgument, app, examples
from distwatch.errors import ConfigError
from distwatch.text import printable

if TYPE_CHECKING:
    from distwatch.store import Request, StoredRun


@app.command(
    name="set",
    epilog=examples(
        "distwatch set run.zarr 'gradient*' --every 100",
        "distwatch set run.zarr 'activation/encoder/*' 'input/*' --off",
        "distwatch set run.zarr 'gradient*' --on",
    ),
)
def set_schedule(
    run: RunArgument,
    signals: Annotated[
        list[str],
        typer.Argument(
            metavar="PATTERN",
            help="Signals, as globs: all of those that share a schedule.",
        ),
    ],
    *,
    every: Annotated[
        int | None, typer.Option(min=1, help="Look at them at every k-th step.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Do not look at them.")] = False,
    on: Annotated[
        bool, typer.Option("--on", help="Look at them as was chosen at the start.")
    ] = False,
) -> None:
    """Tell a running training to look at signals more or less often, or not at all.

    The training reads this when it next drains its rows (after a window, or about 10 seconds),
    and goes on without being traced again. [bold]distwatch info[/bold] shows since which step
    it holds, or why it was refused.
    """
    from distwatch.store import StoredRun, ask, location_of, request

    if (every is not None) + off + on != 1:
        raise typer.BadParameter("say one of --every K, --off and --on.")
    wanted = every if every is not None else "off" if off else "on"
    asked = request(signals=signals, every=wanted)
    stored = StoredRun(run)
    _check(stored, asked)
    try:
        ask(location_of(run), asked)
    except OSError as error:
        raise ConfigError(
            f"{run} cannot be written ({error.strerror or error}), so its training cannot be "
            "told; do this as the user who trains."
        ) from error
    typer.echo(
        f"Asked. See 'distwatch info {printable(str(stored.path))}' for what becomes of it."
    )


def _check(stored: StoredRun, asked: Request) -> None:
    """Refuse what the training could only refuse, too.

    Raises:
        ConfigError: nothing trains there, or on several workers.
        UnknownSignalError: a pattern matches no signal.
    """
    from distwatch.signals import names_matching
    from distwatch.store import StoredRun

    if stored.ended is not None:
        raise ConfigError(f"{stored.path} has ended, so there is nothing to be changed.")
    if stored.info.workers > 1:
        raise ConfigError(
            f"{stored.path} is written by {stored.info.workers} workers, which would follow at "
            "different steps; that is not done."
        )
    names = [
        name for phase in stored.phases for name in StoredRun(stored.path, phase).info.names
    ]
    # Before the first rows it is not known what there is.
    if names:
        names_matching(asked.patterns, list(dict.fromkeys(names)), str(stored.path))
