"""Figures of a run: an overview goes in, a plotly figure comes out.

The only room that draws. Traces carry in ``meta`` what they show, so that the page of a
report can fill the same figure with another signal. Whatever comes from a store goes
through `style.shown`: plotly reads a part of HTML in its texts.
"""

from distwatch.analysis.figures.comparison import Compared, comparison, side_by_side
from distwatch.analysis.figures.curves import curves
from distwatch.analysis.figures.divergence import divergence
from distwatch.analysis.figures.heatmap import heatmap
from distwatch.analysis.figures.ratios import update_ratios
from distwatch.analysis.figures.ridgeline import ridgeline
from distwatch.analysis.figures.style import require_plotly, shown

__all__ = [
    "Compared",
    "comparison",
    "curves",
    "divergence",
    "heatmap",
    "require_plotly",
    "ridgeline",
    "shown",
    "side_by_side",
    "update_ratios",
]
