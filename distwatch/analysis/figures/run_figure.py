"""A figure of a whole run, declared once for notebooks, reports and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distwatch.analysis.figures.style import Figure
from distwatch.analysis.overview import Overview


@dataclass(frozen=True)
class RunFigure:
    """A figure of a whole run: a section of reports, a PNG, and ``run.plot.figure(name)``.

    Args:
        name: that of its PNG and of its section, such as "update-ratios".
        title: the section's heading.
        caption: what the section says about how to read it.
        draw: draws it.
        applies: whether a run has what it shows; where it has not, it is left out.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Overview], Figure]
    applies: Callable[[Overview], bool]
