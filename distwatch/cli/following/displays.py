"""How a followed run is shown: on a terminal, as plain lines, as JSON."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text

from distwatch.cli.following.following import Display, Look
from distwatch.cli.following.picture import (
    Picture,
    as_data,
    conclusion,
    number,
    progress,
    ranked,
)
from distwatch.cli.following.sparkline import glyphs_for
from distwatch.text import printable


def display_for(
    *, once: bool = False, as_json: bool = False
) -> AbstractContextManager[Display]:
    """The display for the kind of output.

    Args:
        once: one picture is wanted, with all signals.
        as_json: it is for programs.
    """
    if as_json:
        return contextlib.nullcontext(JsonLines())
    # A name may contain characters that the output cannot encode.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, soft_wrap=False)
    if once:
        return contextlib.nullcontext(Whole(console))
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        return on_screen(console)
    return contextlib.nullcontext(Lines())


class Screen:
    """The terminal's alternate screen, redrawn with each look."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._glyphs = glyphs_for(console.encoding)
        self.last: Look | None = None

    def waiting(self, path: str) -> None:
        self._live.update(Text(f"Waiting for {printable(path)}", "dim"), refresh=True)

    def show(self, look: Look) -> None:
        self.last = look
        self._live.update(self.picture(look), refresh=True)

    def ended(self, look: Look) -> None:
        self.last = look

    def picture(self, look: Look) -> Picture:
        """A look, drawn to fit the terminal as it is now."""
        return Picture(look, self._console.height, self._glyphs)


@contextlib.contextmanager
def on_screen(console: Console) -> Iterator[Screen]:
    """Use the terminal's alternate screen, and leave the last picture on the main one."""
    with (
        _restored_when_killed(),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        screen = Screen(console, live)
        try:
            yield screen
        finally:
            live.stop()
            if screen.last is not None:
                console.print(screen.picture(screen.last))
    if screen.last is not None and screen.last.ended is not None:
        console.print(Text(conclusion(screen.last)))


@contextlib.contextmanager
def _restored_when_killed() -> Iterator[None]:
    """Turn SIGTERM into an orderly exit, or the terminal stays on the alternate screen."""

    def leave(*_: Any) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Whole:
    """One picture with all signals, however many."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def waiting(self, path: str) -> None:
        """Nothing is shown until there is something to show."""

    def show(self, look: Look) -> None:
        self._console.print(Picture(look, None, glyphs_for(self._console.encoding)))

    def ended(self, look: Look) -> None:
        self.show(look)
        self._console.print(Text(conclusion(look)))


class Lines:
    """A line for each look, for logs and pipes."""

    def __init__(self) -> None:
        self._waits = False

    def waiting(self, path: str) -> None:
        if not self._waits:
            print(f"waiting for {printable(path)}", flush=True)
        self._waits = True

    def show(self, look: Look) -> None:
        print(", ".join([time.strftime("%H:%M:%S"), *_facts(look)]), flush=True)

    def ended(self, look: Look) -> None:
        self.show(look)
        print(conclusion(look), flush=True)


def _facts(look: Look) -> Iterator[str]:
    yield from progress(look)
    if look.lost:
        yield f"{look.lost:,} lost"
    behind = max((worker.behind for worker in look.workers), default=0)
    if behind:
        yield f"a worker is {behind:,} behind"
    special = sum(each.special for each in look.signals)
    if special:
        yield f"{special:,} NaN or Inf"
    for most in ranked(look.signals)[:1]:
        yield f"most changing: {printable(most.name)} {look.statistic} {number(most.value)}"


class JsonLines:
    """A JSON object on a line for each look."""

    def waiting(self, path: str) -> None:
        """A program sees that there is no line."""

    def show(self, look: Look) -> None:
        print(json.dumps(as_data(look), allow_nan=False), flush=True)

    def ended(self, look: Look) -> None:
        self.show(look)
