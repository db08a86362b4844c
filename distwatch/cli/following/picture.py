"""A followed run as text: a few facts, and a line for each signal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

from distwatch.cli.following.following import Look
from distwatch.cli.following.signals import SignalLook
from distwatch.cli.following.sparkline import ASCII, UNICODE, Glyphs, sparkline
from distwatch.store.schema import CLOSED
from distwatch.store.segments import Worker
from distwatch.text import counted, format_bytes, printable

#: Seconds without anything new that are worth mentioning.
_QUIET = 30.0

#: With fewer columns a sparkline says little: other columns are left out for it.
_LEAST_SPARKLINE = 12
_MOST_SPARKLINE = 100

#: Columns between columns.
_GAP = 2

#: How many workers that are behind are named.
_NAMED = 3


@dataclass(frozen=True)
class Picture:
    """A look at a run, drawn to fit a terminal.

    ``height`` is that of the terminal; with None all signals are there. Where there is no
    room for all, those that deserve most attention come first.
    """

    look: Look
    height: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else UNICODE
        width = options.max_width
        head = header(self.look, width, glyphs)
        yield from head
        if not self.look.signals:
            return
        room = None if self.height is None else max(self.height - len(head) - 3, 1)
        shown = fitting(self.look.signals, room)
        yield Text("")
        yield _table(self.look, shown, width, glyphs)
        if left_out := len(self.look.signals) - len(shown):
            yield Text(f"{glyphs.ellipsis} {counted(left_out, 'more signal')}", "dim")


def fitting(signals: Sequence[SignalLook], room: int | None) -> Sequence[SignalLook]:
    """The signals that there is room for, with a line that says how many are left out.

    If all fit they are in the run's own order, so that lines stay in place; otherwise
    those that deserve most attention come first.
    """
    if room is None or len(signals) <= room:
        return signals
    return ranked(signals)[: max(room - 1, 1)]


def ranked(signals: Sequence[SignalLook]) -> list[SignalLook]:
    """Signals with NaN or Inf first, then those that change most relative to their size."""
    return sorted(signals, key=lambda each: (each.special == 0, -each.attention))


def header(look: Look, width: int, glyphs: Glyphs) -> list[Text]:
    """The facts about the run, in lines that fit."""
    about = [
        Text(_end(printable(str(look.stored.path)), width, glyphs), "bold"),
        Text(printable(look.stored.info.phase)),
        Text(printable(look.stored.info.strategy)),
        _state(look),
    ]
    return [
        *_wrapped(about, width, glyphs),
        *_wrapped([Text(fact) for fact in progress(look)], width, glyphs),
        *_wrapped([Text(fact, "yellow") for fact in _troubles(look)], width, glyphs),
    ]


def progress(look: Look) -> Iterator[str]:
    """How far a run is, how fast, and its size on disk."""
    if look.last_step is None:
        yield "no step is committed yet"
    else:
        yield f"step {look.last_step:,}"
        yield f"{look.stored.steps:,} committed"
        if not look.stored.lost:
            yield "none lost"
    if changed := [each for each in look.stored.changes if each.schedule]:
        yield f"{counted(len(changed), 'change')} of schedules, see distwatch info"
    for pace, unit in zip(look.per_second or (), ("steps", "rows"), strict=False):
        yield f"{pace:,.0f} {unit}/s" if pace >= 100 else f"{pace:.3g} {unit}/s"
    if look.nbytes is not None:
        yield format_bytes(look.nbytes)
    if look.free is not None:
        yield f"{format_bytes(look.free)} free"


def conclusion(look: Look) -> str:
    """How the writing ended, in a sentence; only for a run that has ended."""
    lost = counted(look.stored.lost, "step") if look.stored.lost else "none"
    steps = f"{counted(look.stored.steps, 'step')}, {lost} lost"
    if look.ended == CLOSED:
        return f"The run is closed: {steps}."
    return f"The run was ended by an error ({steps}): {printable(str(look.ended))}"


def number(value: float, dash: str = "-", digits: int = 4) -> str:
    """The first digits of a number; a dash where it is not known."""
    return dash if math.isnan(value) else f"{value:.{digits}g}"


def _state(look: Look) -> Text:
    if look.ended == CLOSED:
        return Text("closed", "green")
    if look.ended is not None:
        return Text("ended by an error", "red")
    if look.quiet >= _QUIET:
        return Text(f"nothing new for {_duration(look.quiet)}", "yellow")
    return Text("being written", "green")


def _troubles(look: Look) -> Iterator[str]:
    if look.stored.lost:
        yield f"{counted(look.stored.lost, 'step')} lost"
    behind = sorted(
        (each for each in look.stored.workers if look.behind(each) or _went_wrong(each)),
        key=look.behind,
        reverse=True,
    )
    yield from (_about(worker, look.behind(worker)) for worker in behind[:_NAMED])
    if len(behind) > _NAMED:
        yield f"{len(behind) - _NAMED} more workers are behind"
    if look.absent:
        yield f"{counted(look.absent, 'worker')} left no row yet"


def _about(worker: Worker, behind: int) -> str:
    info = worker.info
    numbers = ", ".join(map(str, info.replicas))
    words = f"worker {info.worker} (replica{'s' * (len(info.replicas) != 1)} {numbers})"
    if behind:
        words += f" is {counted(behind, 'step')} behind"
    if _went_wrong(worker):
        words += f", ended by an error: {printable(str(worker.ended))}"
    return words


def _went_wrong(worker: Worker) -> bool:
    return worker.ended not in (None, CLOSED)


def _wrapped(facts: Sequence[Text], width: int, glyphs: Glyphs) -> list[Text]:
    """Facts side by side, broken into lines between them."""
    lines: list[Text] = []
    for fact in facts:
        # One that is too long for any line keeps its beginning.
        fact.truncate(width, overflow="crop")
        if lines and lines[-1].cell_len + len(glyphs.between) + fact.cell_len <= width:
            lines[-1].append(glyphs.between, "dim").append_text(fact)
        else:
            lines.append(Text.assemble(fact))
    return lines


def _table(look: Look, shown: Sequence[SignalLook], width: int, glyphs: Glyphs) -> Table:
    numbers = _numbers(look, shown, glyphs)
    longest = max(cell_len(printable(each.name)) for each in shown)
    named = min(max(longest, len("signal")), max(12, width * 3 // 10))
    taken = itertools.accumulate(_GAP + width for _, width, _ in numbers)
    # What is left for the sparkline, with one column of numbers, two, ...
    left = [width - named - _GAP - each for each in taken]
    # The first, what the sparkline shows, always stays.
    kept = max(1, sum(each >= _LEAST_SPARKLINE for each in left))
    columns = min(max(left[kept - 1], 4), _MOST_SPARKLINE)
    steps = counted(max(len(each.values) for each in shown), "step")
    heading = _heading(printable(look.statistic), steps, columns)
    table = Table(
        Column("signal", width=named, no_wrap=True),
        Column(Text(heading), width=columns, no_wrap=True),
        *(
            Column(title, width=needed, no_wrap=True, justify="right")
            for title, needed, _ in numbers[:kept]
        ),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        # A column of the gap is the box's own.
        padding=(0, _GAP - 1, 0, 0),
    )
    for each, *cells in zip(shown, *(cells for *_, cells in numbers[:kept]), strict=True):
        table.add_row(
            Text(_end(printable(each.name), named, glyphs)),
            _line(each, columns, glyphs),
            *cells,
        )
    return table


def _heading(statistic: str, steps: str, width: int) -> str:
    """As much of the heading as there is room for."""
    most = (f"{statistic}, last {steps}", f"{statistic}, {steps}", statistic)
    return next((each for each in most if len(each) <= width), statistic[:width])


def _numbers(
    look: Look, shown: Sequence[SignalLook], glyphs: Glyphs
) -> list[tuple[str, int, list[Text]]]:
    """Heading, width and cells of the columns of numbers, the most important first."""
    dash = glyphs.dash
    columns = [
        ("now", 10, [Text(number(each.value, dash)) for each in shown]),
        ("NaN/Inf", 7, [_special(each, dash) for each in shown]),
    ]
    if len(look.stored.info.replicas) > 1:
        columns += [
            ("spread", 8, [Text(number(each.spread, dash, digits=3)) for each in shown]),
            (
                "replica",
                7,
                [Text(dash if each.replica is None else str(each.replica)) for each in shown],
            ),
        ]
    return columns


def _special(each: SignalLook, dash: str) -> Text:
    if not each.special:
        return Text(dash, "dim")
    return Text(f"{each.special}" if each.special < 10**7 else f"{each.special:.1e}", "red")


def _line(each: SignalLook, columns: int, glyphs: Glyphs) -> Text:
    line = Text(sparkline(each.values, each.broken, columns, glyphs), "cyan")
    line.highlight_words([glyphs.broken], "bold red")
    return line


def _end(text: str, width: int, glyphs: Glyphs) -> str:
    """A text, or as much of its end as fits: names begin alike and end differently."""
    if cell_len(text) <= width:
        return text
    return f"{glyphs.ellipsis}{set_cell_size(text[::-1], width - 1)[::-1]}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes >= 5 else f"{int(seconds)} s"


def as_data(look: Look) -> dict[str, Any]:
    """A look as plain data, for programs: NaN and infinity are None."""
    stored = look.stored
    steps_per_second, rows_per_second = look.per_second or (None, None)
    return {
        "path": str(stored.path),
        "strategy": stored.info.strategy,
        "phase": stored.info.phase,
        "replicas": list(stored.info.replicas),
        "committed_steps": stored.steps,
        "last_step": look.last_step,
        "lost_steps": stored.lost,
        "steps_per_second": steps_per_second,
        "rows_per_second": rows_per_second,
        "quiet_seconds": look.quiet,
        "bytes": look.nbytes,
        "free_bytes": look.free,
        "ended": look.ended,
        "workers": [
            {
                "worker": worker.info.worker,
                "replicas": list(worker.info.replicas),
                "committed_steps": worker.steps,
                "behind": look.behind(worker),
                "ended": worker.ended,
            }
            for worker in stored.workers
        ],
        "absent_workers": look.absent,
        "statistic": look.statistic,
        "signals": [
            {
                "name": each.name,
                "value": _finite(each.value),
                "spread": _finite(each.spread),
                "replica": each.replica,
                "nans_and_infs": each.special,
                "steps": len(each.values),
            }
            for each in look.signals
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
