"""Where a page is written, and what is there already."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from distwatch.store.addresses import address_of
from distwatch.store.new_runs import SUFFIX, name_of
from distwatch.text import printable

#: Where a page says what it is, near its beginning.
_HEAD = 4096
_OURS = re.compile(r'<meta name="generator" content="distwatch ')
_RUNS = re.compile(r'<meta name="distwatch-runs" content="([^"]*)">')
_TITLE = re.compile(r"<title>(.*) · distwatch</title>")


def page_beside(runs: Sequence[str | Path]) -> Path:
    """The file that a report is written to by default: ``run.html`` beside ``run.zarr``.

    Args:
        runs: one run or two. Of a run that is in no folder the page is in the current one.
    """
    addresses = [address_of(run) for run in runs]
    names = [name_of(address).removesuffix(SUFFIX) for address in addresses]
    if len(set(names)) < len(names):
        # Such as the fits of several starts: their folders tell them apart.
        names = [
            f"{address.parent.name}-{name}" if isinstance(address, Path) else name
            for address, name in zip(addresses, names, strict=True)
        ]
    first = addresses[0]
    folder = first.parent if isinstance(first, Path) else Path()
    return folder / f"{'-and-'.join(names)}.html"


def replaced_by(page: Path, identities: Sequence[str]) -> tuple[str, bool]:
    """What would be replaced at a path, if it is more than an older page of the same runs.

    Args:
        page: the path.
        identities: those of the runs: see `ReadRun`.

    Returns:
        What it is, in words, or "" if nothing is lost; and whether distwatch wrote it.
    """
    try:
        with page.open("rb") as file:
            head = file.read(_HEAD).decode(errors="replace")
    except OSError:
        return "", True
    if not _OURS.search(head):
        return "a file that is no report of distwatch", False
    runs, title = _RUNS.search(head), _TITLE.search(head)
    if runs is not None and html.unescape(runs[1]).split() == list(identities):
        return "", True
    # A page from before pages named their runs may well be of the same.
    of = printable(html.unescape(title[1])) if title else "another run"
    return f"the report of {of}" if runs is None else f"the report of another run ({of})", True
