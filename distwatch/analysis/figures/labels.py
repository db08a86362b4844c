"""Names at an axis: short, and yet different where the names are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from distwatch.text import printable

#: The length of names at an axis, and of those on a phone.
LABEL, NARROW = 34, 20

#: How much of what they have in common is shown before the place at which names part.
_BEFORE = 6


def shortened(text: str, longest: int) -> str:
    """One printable line of at most ``longest`` characters, cut in the middle if necessary."""
    line = printable(text)
    if len(line) <= longest:
        return line
    tail = max((longest - 1) * 2 // 3, longest - 6)
    return f"{line[: longest - 1 - tail]}…{line[-tail:]}"


def labels(names: Sequence[str], longest: int = LABEL) -> list[str]:
    """A label for each name, of about ``longest`` characters; other names have other labels.

    Names whose middles are cut to the same label show the part in which they differ instead,
    and what is still the same is numbered.
    """
    found = [shortened(name, longest) for name in names]
    for places in _equal(found, names):
        for place in places:
            found[place] = _around(names[place], [names[i] for i in places], longest)
    for places in _equal(found, names):
        for number, place in enumerate(places, 1):
            found[place] += f" ({number})"
    return found


def _equal(found: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """The places of labels that are equal although their names are not."""
    by_label = defaultdict(list)
    for place, label in enumerate(found):
        by_label[label].append(place)
    return [
        places for places in by_label.values() if len({names[place] for place in places}) > 1
    ]


def _around(name: str, group: Sequence[str], longest: int) -> str:
    """The part of a name in which the names of a group begin to differ."""
    parts = (len(set(letters)) > 1 for letters in zip(*group, strict=False))
    start = max(0, next((i for i, differs in enumerate(parts) if differs), 0) - _BEFORE)
    line = printable(name)
    part = line[start : start + longest - 2]
    end = "…" if start + longest - 2 < len(line) else ""
    return f"{'…' if start else ''}{part}{end}"
