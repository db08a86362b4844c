"""A run as Jupyter shows it: a summary that is quick to read."""

from __future__ import annotations

import html

from distwatch.analysis.facts import describe, facts_of
from distwatch.findings import WARNING, Digest, Finding
from distwatch.store.joining import blocks
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
    digest = Digest(stored.info)
    for table in stored.every_table.values():
        for block in blocks(table, since=max(0, table.steps - most)):
            digest.observe(block)
    return digest, None if stored.steps <= most else most


def as_html(stored: StoredRun, findings: list[Finding], read: int | None) -> str:
    """A summary of a run as a piece of HTML, with all text escaped.

    Args:
        stored: the run.
        findings: what stands out; only the first ones are shown.
        read: how many steps they are about; None for all.
    """
    rows = "".join(
        f'<tr><th style="text-align:left;font-weight:600">{_text(name)}</th>'
        f'<td style="text-align:left">{_text(text)}</td></tr>'
        for name, text in facts_of(describe(stored))
        if name in _FACTS
    )
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
    return f"<div><p><b>distwatch.Run</b></p><ul>{said}</ul>{part}<table>{rows}</table></div>"


def _text(text: str) -> str:
    return html.escape(printable(text))
