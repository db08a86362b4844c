"""Figures of a run: made from an overview, drawn by plotly.

Traces say in ``meta`` what they show, so that the page of a report can fill the same figure
with another signal. Text from a store goes through `style.shown`, since plotly interprets
a part of HTML. A new figure of a whole run is a module with a `RunFigure`, listed in
`RUN_FIGURES`: reports, images and ``run.plot.figure`` have it from there.
"""

from distwatch.analysis.figures.comparison import (
    LETTERS,
    Compared,
    comparison,
    ranked,
    side_by_side,
)
from distwatch.analysis.figures.curves import curves
from distwatch.analysis.figures.divergence import DIVERGENCE
from distwatch.analysis.figures.heatmap import edges_of, heatmap, heatmap_picture
from distwatch.analysis.figures.ratios import UPDATE_RATIOS
from distwatch.analysis.figures.ridgeline import ridgeline, ridgeline_picture
from distwatch.analysis.figures.style import RunFigure, shown

#: Figures of a whole run that take no arguments, in the order of reports.
RUN_FIGURES: tuple[RunFigure, ...] = (DIVERGENCE, UPDATE_RATIOS)

__all__ = [
    "LETTERS",
    "RUN_FIGURES",
    "Compared",
    "RunFigure",
    "comparison",
    "curves",
    "edges_of",
    "heatmap",
    "heatmap_picture",
    "ranked",
    "ridgeline",
    "ridgeline_picture",
    "shown",
    "side_by_side",
]
