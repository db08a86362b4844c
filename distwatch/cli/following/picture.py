"""A followed run as text: a few facts, and a line for each signal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from distwatch.cli.following.following import Look, WorkerLook
from distwatch.cli.following.signals import SignalLook
from distwatch.cli.following.sparkline import UNICODE, Glyphs, sparkline
from distwatch.store.schema import CLOSED
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
    glyphs: Glyphs = UNICODE

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        head = header(self.look, width, self.glyphs)
        yield from head
        if not self.look.signals:
            return
        room = None if self.height is None else max(self.height - len(head) - 3, 1)
        shown, left_out = fitting(self.look.signals, room)
        yield Text("")
        yield _table(self.look, shown, width, self.glyphs)
        if left_out:
            yield Text(f"{self.glyphs.ellipsis} {counted(left_out, 'more signal')}", "dim")


def fitting(
    signals: Sequence[SignalLook], room: int | None
) -> tuple[Sequence[SignalLook], int]:
    """The signals that there is room for, and how many are left out.

    If all fit they are in the run's own order, so that lines stay in place; otherwise
    those that deserve most attention come first.
    """
    if room is None or len(signals) <= room:
        return signals, 0
    shown = ranked(signals)[: max(room - 1, 1)]
    return shown, len(signals) - len(shown)


def ranked(signals: Sequence[SignalLook]) -> list[SignalLook]:
    """Signals with NaN or Inf first, then those that change most relative to their size."""
    return sorted(signals, key=lambda each: (each.special == 0, -each.attention))


def header(look: Look, width: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """The facts about the run, in lines that fit."""
    about = [
        Text(_end(printable(look.path), width, glyphs), "bold"),
        Text(printable(look.phase)),
        Text(printable(look.strategy)),
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
        yield f"{look.steps:,} committed"
    if look.last_step is not None and not look.lost:
        yield "none lost"
    if look.steps_per_second is not None and look.rows_per_second is not None:
        yield f"{_rate(look.steps_per_second)} steps/s"
        yield f"{_rate(look.rows_per_second)} rows/s"
    if look.nbytes is not None:
        yield format_bytes(look.nbytes)
    if look.free is not None:
        yield f"{format_bytes(look.free)} free"


def conclusion(look: Look) -> str:
    """How the writing ended, in a sentence; only for a run that has ended."""
    lost = f"{counted(look.lost, 'step')} lost" if look.lost else "none lost"
    steps = f"{counted(look.steps, 'step')}, {lost}"
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
    if look.lost:
        yield f"{counted(look.lost, 'step')} lost"
    behind = sorted(
        (worker for worker in look.workers if worker.behind or _went_wrong(worker)),
        key=lambda worker: -worker.behind,
    )
    for worker in behind[:_NAMED]:
        yield _about(worker)
    if len(behind) > _NAMED:
        yield f"{len(behind) - _NAMED} more workers are behind"
    if look.absent:
        yield f"{counted(look.absent, 'worker')} left no row yet"


def _about(worker: WorkerLook) -> str:
    numbers = ", ".join(map(str, worker.replicas))
    said = f"worker {worker.number} (replica{'s' * (len(worker.replicas) != 1)} {numbers})"
    if worker.behind:
        said += f" is {counted(worker.behind, 'step')} behind"
    if _went_wrong(worker):
        said += f", ended by an error: {printable(str(worker.ended))}"
    return said


def _went_wrong(worker: WorkerLook) -> bool:
    return worker.ended not in (None, CLOSED)


def _wrapped(facts: Sequence[Text], width: int, glyphs: Glyphs) -> Iterator[Text]:
    """Facts side by side, broken into lines between them."""
    line = Text()
    for fact in facts:
        if line and line.cell_len + len(glyphs.between) + fact.cell_len > width:
            yield line
            line = Text()
        if line:
            line.append(glyphs.between, "dim")
        # One that is too long for any line keeps its beginning.
        fact.truncate(width, overflow="crop")
        line.append_text(fact)
    if line:
        yield line


class _Column(NamedTuple):
    heading: str
    width: int
    cells: list[Text]


def _table(look: Look, shown: Sequence[SignalLook], width: int, glyphs: Glyphs) -> Table:
    numbers = _numbers(look, shown, glyphs)
    longest = max(cell_len(printable(each.name)) for each in shown)
    named = min(max(longest, len("signal")), max(12, width * 3 // 10))

    def room() -> int:
        taken = sum(column.width + _GAP for column in numbers)
        return width - named - _GAP - taken

    # The first, what the sparkline shows, always stays.
    while len(numbers) > 1 and room() < _LEAST_SPARKLINE:
        numbers.pop()
    columns = min(max(room(), 4), _MOST_SPARKLINE)
    # A column of the gap is the box's own.
    padding = (0, _GAP - 1, 0, 0)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=padding)
    table.add_column("signal", width=named, no_wrap=True)
    steps = max(len(each.values) for each in shown)
    heading = _heading(printable(look.statistic), counted(steps, "step"), columns)
    table.add_column(Text(heading), width=columns, no_wrap=True)
    for column in numbers:
        table.add_column(column.heading, width=column.width, no_wrap=True, justify="right")
    for i, each in enumerate(shown):
        table.add_row(
            Text(_end(printable(each.name), named, glyphs)),
            _line(each, columns, glyphs),
            *(column.cells[i] for column in numbers),
        )
    return table


def _heading(statistic: str, steps: str, width: int) -> str:
    """As much of the heading as there is room for."""
    most = (f"{statistic}, last {steps}", f"{statistic}, {steps}", statistic)
    return next((each for each in most if len(each) <= width), statistic[:width])


def _numbers(look: Look, shown: Sequence[SignalLook], glyphs: Glyphs) -> list[_Column]:
    """The columns of numbers, the most important first."""
    dash = glyphs.dash
    columns = [
        _Column("now", 10, [Text(number(each.value, dash)) for each in shown]),
        _Column("NaN/Inf", 7, [_special(each, dash) for each in shown]),
    ]
    if len(look.replicas) > 1:
        spreads = [Text(number(each.spread, dash, digits=3)) for each in shown]
        outliers = [dash if each.replica is None else str(each.replica) for each in shown]
        columns.append(_Column("spread", 8, spreads))
        columns.append(_Column("replica", 7, [Text(each) for each in outliers]))
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
    kept = text
    while kept and cell_len(kept) > width - 1:
        kept = kept[1:]
    return f"{glyphs.ellipsis}{kept}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes >= 5 else f"{60 * minutes + rest} s"


def as_data(look: Look) -> dict[str, Any]:
    """A look as plain data, for programs: NaN and infinity are None."""
    return {
        "path": look.path,
        "strategy": look.strategy,
        "phase": look.phase,
        "replicas": list(look.replicas),
        "committed_steps": look.steps,
        "last_step": look.last_step,
        "lost_steps": look.lost,
        "steps_per_second": look.steps_per_second,
        "rows_per_second": look.rows_per_second,
        "quiet_seconds": look.quiet,
        "bytes": look.nbytes,
        "free_bytes": look.free,
        "ended": look.ended,
        "workers": [
            {
                "worker": worker.number,
                "replicas": list(worker.replicas),
                "committed_steps": worker.steps,
                "behind": worker.behind,
                "ended": worker.ended,
            }
            for worker in look.workers
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
