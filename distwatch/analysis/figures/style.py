"""What all figures share: how they are declared and look, and how text is escaped in them."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distwatch.analysis.figures.labels import NARROW, labels, shortened
from distwatch.analysis.overview import Overview
from distwatch.errors import SetupError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
else:
    # For annotations only: plotly is loaded when something is drawn.
    Figure = Any

#: A trace, as plotly's JSON has it.
Trace = dict[str, Any]

__all__ = [
    "BROKEN",
    "DASHES",
    "INK",
    "LONGEST",
    "PAPER",
    "REPLICA_COLOURS",
    "RUN_COLOURS",
    "SCALE",
    "TIMES",
    "Figure",
    "Picture",
    "RunFigure",
    "Trace",
    "both_labels",
    "colour_of",
    "dash_of",
    "faint",
    "figure",
    "figure_or_picture",
    "name_rows",
    "require_plotly",
    "shown",
    "with_picture",
]

#: Okabe & Ito (2008), "Color universal design", in an order in which neighbours are easy to
#: distinguish; black is for merged values, yellow comes last since it is pale on white.
REPLICA_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#B8A900",
)

#: Dashes distinguish replicas where there are more of them than colours.
DASHES = ("solid", "dash", "dot", "dashdot")

#: For values merged over replicas; a page uses the colour of its text instead.
INK = "#1b2733"

#: What figures are on; a page lets its own through instead.
PAPER = "#ffffff"

#: Even for colour-blind eyes, and in grey print; no colour of it looks like no value.
SCALE = "Viridis"

BROKEN = "#D55E00"

#: The multiplication sign.
TIMES = "\N{MULTIPLICATION SIGN}"

#: For the runs of a comparison; the page's style has the same for their headings.
RUN_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C6BB1",
    "#7F7F7F",
)

#: Longer texts are cut in the middle: in a figure, and in its data.
_TITLE = 72
LONGEST = 160

#: Characters that plotly or MathJax would interpret.
_SPECIAL = {"$": "&#36;", "%": "&#37;", "{": "&#123;", "}": "&#125;"}


@dataclass(frozen=True)
class RunFigure:
    """A figure of a whole run: a section of reports, a PNG, and ``run.plot.figure(name)``.

    Args:
        name: that of its PNG and of its section, such as "update-ratios".
        title: the section's heading.
        caption: what the section says about how to read it.
        draw: draws it.
        picture: draws the same as a small picture, SVG, without plotly.
        applies: whether a run has what it shows; where it has not, it is left out.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Overview], Figure]
    picture: Callable[[Overview], str]
    applies: Callable[[Overview], bool]


def shown(text: str, longest: int = _TITLE) -> str:
    """Text from a store, shown literally: no markup, no formula, no placeholder."""
    escaped = html.escape(shortened(text, longest), quote=False)
    return "".join(_SPECIAL.get(c, c) for c in escaped)


def require_plotly() -> Any:
    """The module ``plotly.graph_objects``.

    Raises:
        SetupError: plotly is not installed.
    """
    try:
        import plotly.graph_objects
    except ModuleNotFoundError as error:
        raise SetupError(
            'figures need plotly, which is not installed: pip install "distwatch[report]".'
        ) from error
    return plotly.graph_objects


def figure(traces: Sequence[Trace], *, height: int, title: str = "", **layout: Any) -> Figure:
    """A figure in the style of all.

    It is on white paper, since its ink is dark, whatever the notebook that shows it looks like.

    Args:
        traces: what it shows, each with its ``type``, as plotly describes them.
        height: in pixels.
        title: its title; empty for none.
        layout: further properties of plotly's layout.

    Raises:
        SetupError: plotly is not installed.
    """
    made = require_plotly().Figure(data=traces)
    made.update_layout(
        template="none",
        height=height,
        title={
            "text": title,
            "x": 0,
            "xref": "paper",
            "y": 0.985,
            "yanchor": "top",
            "font": {"size": 15},
        },
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 12.5},
        font_color=INK,
        margin={"l": 64, "r": 16, "t": 78 if title else 16, "b": 44},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        colorway=list(REPLICA_COLOURS),
        hoverlabel={"font": {"family": "system-ui, sans-serif", "size": 12.5}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **layout,
    )
    grid = {"gridcolor": "rgba(128,140,152,0.25)", "zeroline": False, "automargin": True}
    made.update_xaxes(**grid, linecolor="rgba(128,140,152,0.5)", showline=True)
    made.update_yaxes(**grid)
    return made


@dataclass(frozen=True)
class Picture:
    """A small picture of a figure, which notebooks show.

    Args:
        svg: the picture.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return (
            "<a picture of distwatch, in .svg; for a figure to zoom into: "
            'pip install "distwatch[report]">'
        )


def figure_or_picture(
    draw: Callable[[], Figure], picture: Callable[[], str]
) -> Figure | Picture:
    """A figure that a notebook shows as a picture where it cannot show plotly's.

    Args:
        draw: makes the figure, with plotly.
        picture: makes the picture, as SVG.

    Returns:
        The figure; the picture alone where plotly is not installed.
    """
    try:
        require_plotly()
    except SetupError:
        return Picture(picture())
    return with_picture(draw(), picture)


def with_picture(made: Figure, picture: Callable[[], str]) -> Figure:
    """A figure that a notebook shows as a picture where it cannot show plotly's.

    Saved notebooks are also read where nothing runs: on a web page, or in a review. Where
    another renderer than that of notebooks is chosen, such as a browser, it stays in charge.

    Args:
        made: the figure.
        picture: makes the picture, as SVG.
    """
    import plotly.io

    if plotly.io.renderers.default == "plotly_mimetype":
        plain, svg = made._repr_mimebundle_, picture()
        # The one would leave the picture out, the other would load plotly from a network.
        made._ipython_display_ = made._repr_html_ = None
        made._repr_mimebundle_ = lambda *args, **more: {
            **plain(*args, **more),
            "image/svg+xml": svg,
            # Not plotly's own, which is all of its data.
            "text/plain": "<a figure of distwatch>",
        }
    return made


def name_rows(made: Figure, names: list[str]) -> None:
    """Give a figure a row for each name, the first at the top."""
    made.update_layout(meta={"labels": both_labels(names)})
    made.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[shown(label) for label in labels(names)],
        range=[max(1, len(names)) - 0.4, -0.6],
        showgrid=False,
        ticksuffix=" ",
    )


def both_labels(names: Sequence[str]) -> list[tuple[str, str]]:
    """The label of each name at an axis, and that on a phone."""
    return list(zip(labels(names), labels(names, NARROW), strict=True))


def colour_of(place: int) -> str:
    """The colour of the replica at a place."""
    return REPLICA_COLOURS[place % len(REPLICA_COLOURS)]


def dash_of(place: int) -> str:
    """Its dash."""
    return DASHES[place // len(REPLICA_COLOURS) % len(DASHES)]


def faint(colour: str, opacity: float = 0.18) -> str:
    """The same colour, for a band."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{opacity})"
