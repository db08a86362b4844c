"""How a followed run is shown: on a terminal, as plain lines, as JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from distwatch.cli.following.following import Look
from distwatch.cli.following.picture import (
    Picture,
    as_data,
    conclusion,
    number,
    progress,
    ranked,
)
from distwatch.text import printable


def display(
    looks: Iterable[Look | None], path: str, *, once: bool = False, as_json: bool = False
) -> None:
    """Show looks at a run as they come, in the form that suits the output.

    Args:
        looks: as from `follow`: None while there is no run yet.
        path: where the run is, or will be.
        once: one picture is wanted, with all signals.
        as_json: print one JSON object per look, for programs.
    """
    console = Console(highlight=False, soft_wrap=False)
    if as_json:
        for look in filter(None, looks):
            print(json.dumps(as_data(look), allow_nan=False), flush=True)
    elif once:
        for look in filter(None, looks):
            console.print(Picture(look))
            if look.ended is not None:
                console.print(Text(conclusion(look)))
    elif sys.stdout.isatty() and not console.is_dumb_terminal:
        _show_on_screen(iter(looks), path, console)
    else:
        _print_lines(looks, path)


def _show_on_screen(looks: Iterator[Look | None], path: str, console: Console) -> None:
    """Use the terminal's alternate screen, and leave the last picture on the main one."""
    # Errors of the first look are raised before the screen changes.
    first, last = next(looks), None
    with (
        _restored_when_killed(),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        try:
            for look in itertools.chain([first], looks):
                last = look
                waiting = Text(f"Waiting for {printable(path)}", "dim")
                live.update(Picture(look, console.height) if look else waiting, refresh=True)
        finally:
            live.stop()
            if last is not None:
                console.print(Picture(last, console.height))
    if last is not None and last.ended is not None:
        console.print(Text(conclusion(last)))


@contextlib.contextmanager
def _restored_when_killed() -> Iterator[None]:
    """Turn SIGTERM into an orderly exit, or the terminal stays on the alternate screen."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_lines(looks: Iterable[Look | None], path: str) -> None:
    """Print a line for each look, for logs and pipes, and one for the time of waiting."""
    waiting = False
    for look in looks:
        if look is not None:
            print(", ".join([time.strftime("%H:%M:%S"), *_facts(look)]), flush=True)
            if look.ended is not None:
                print(conclusion(look), flush=True)
        elif not waiting:
            waiting = True
            print(f"waiting for {printable(path)}", flush=True)


def _facts(look: Look) -> Iterator[str]:
    yield from progress(look)
    if look.stored.lost:
        yield f"{look.stored.lost:,} lost"
    if behind := max(map(look.behind, look.stored.workers), default=0):
        yield f"a worker is {behind:,} behind"
    if special := sum(each.special for each in look.signals):
        yield f"{special:,} NaN or Inf"
    for most in ranked(look.signals)[:1]:
        yield f"most changing: {printable(most.name)} {look.statistic} {number(most.value)}"
