"""A run as Jupyter shows it: a summary that is quick to read."""

from __future__ import annotations

import html

from distwatch.analysis.detail import find
from distwatch.analysis.facts import describe, facts_of
from distwatch.analysis.overview import Extent, read_overview
from distwatch.analysis.parts import last_steps
from distwatch.analysis.pictures import WIDTH, picture
from distwatch.findings import WARNING, Digest, Finding
from distwatch.store.layout import SIGNALS_PER_CHUNK
from distwatch.store.readable_tables import blocks
from distwatch.store.reader import StoredRun
from distwatch.text import printable

#: This many states (of a signal on a replica at a step) are read in a second or so.
MOST_STATES = 1_500_000

#: The largest number of findings shown in a notebook.
_MOST = 9

#: The facts that are shown; the rest is in ``distwatch info``.
_FACTS = ("run", "strategy", "phase", "replicas", "steps", "lost", "thinned out", "written")


def digest_of_end(stored: StoredRun) -> tuple[Digest, int | None]:
    """The digest of as many steps at the end of a run as can be read in about a second.

    Returns:
        The digest, and how many steps of the longest table were read; None for all.
    """
    return stored.reading(lambda: _digest_of_end(stored))


def _digest_of_end(stored: StoredRun) -> tuple[Digest, int | None]:
    replicas = max(1, len(stored.info.replicas))
    each_step = sum(len(t.table.signals) * replicas for t in stored.tables.values() if t.steps)
    most = max(1, MOST_STATES // max(1, each_step))
    digest = Digest(stored.info, stored.epochs)
    for table in stored.every_table.values():
        for block in blocks(table, since=max(0, table.steps - most)):
            digest.observe(block)
    return digest, None if stored.steps <= most else most


def signal_as_html(stored: StoredRun, name: str, statistic: str, described: str) -> str:
    """One signal as a piece of HTML: what it is, and a picture of its last steps.

    Args:
        stored: the run.
        name: the signal's.
        statistic: what is drawn.
        described: what it is, in words.
    """
    table, _ = stored.reading(lambda: find(stored, name))
    if not table.steps:
        return f"<div><b>{_text(name)}</b>: {_text(described)}</div>"
    # A chunk is read whole, whatever of it is wanted.
    each_step = max(1, len(table.replicas)) * min(len(table.table.signals), SIGNALS_PER_CHUNK)
    most = max(1, MOST_STATES // each_step)
    shown = stored if table.steps <= most else last_steps(stored, most)
    overview = read_overview(shown, extent=Extent(WIDTH // 2), signals=[name])
    part = (
        ""
        if shown is stored
        else f"<br><i>The last {most:,} of {table.steps:,} steps are drawn.</i>"
    )
    return (
        f"<div><b>{_text(name)}</b>: {_text(described)}{part}<br>"
        f"{picture(overview.history(name, statistic))}</div>"
    )


def part_as_html(stored: StoredRun) -> str:
    """A part of a run as a piece of HTML: what it is of, without findings."""
    called = _text(".".join(view.text for view in stored.views))
    said = (
        f"<li>A part of the run: <code>{called}</code>. Lost steps, and how it was "
        "written, are said of the whole run.</li>"
    )
    return _as_html(stored, said, "")


def as_html(stored: StoredRun, findings: list[Finding], read: int | None) -> str:
    """A summary of a run as a piece of HTML, with all text escaped.

    Args:
        stored: the run.
        findings: what stands out; only the first ones are shown.
        read: how many steps they are about; None for all.
    """
    said = "".join(
        f"<li>{'<b>Warning: </b>' * (each.severity == WARNING)}{_text(each.text)}</li>"
        for each in findings[:_MOST]
    )
    if len(findings) > _MOST:
        said += f"<li>And {len(findings) - _MOST} more: see <code>run.findings()</code>.</li>"
    part = (
        ""
        if read is None
        else f"<p><i>About the last {read:,} of {stored.steps:,} steps; "
        "<code>run.summary()</code> reads all of them.</i></p>"
    )
    return _as_html(stored, said, part)


def _as_html(stored: StoredRun, said: str, part: str) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left;font-weight:600">{_text(name)}</th>'
        f'<td style="text-align:left">{_text(text)}</td></tr>'
        for name, text in facts_of(describe(stored))
        if name in _FACTS
    )
    return f"<div><p><b>distwatch.Run</b></p><ul>{said}</ul>{part}<table>{rows}</table></div>"


def _text(text: str) -> str:
    return html.escape(printable(text))
