"""What epochs came to, as small charts: a metric in training and validation, over each other.

They are drawn here, as SVG, so that they are also there without JavaScript.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distwatch.analysis.figures import LETTERS
from distwatch.records import Epoch, Floats
from distwatch.report.reading import ReadRun
from distwatch.text import printable

#: In units of the drawing, which is as wide as there is room.
WIDTH, HEIGHT, _EDGE = 300, 110, 6

#: What the names of metrics of a validation begin with, as Keras gives them.
_VALIDATION = "val_"
LEARNING_RATE = "learning rate"

#: Charts on the page, and points of a line, at most; of so few each is marked.
MOST = 24
_POINTS = 600
_MARKED = 40


@dataclass(frozen=True)
class EpochLine:
    """A metric of one run over its epochs, as it is drawn and said."""

    #: Which run, such as "A"; "" if there is only one.
    letter: str
    #: What it is of: "training", "validation", or a validation set's name.
    of: str
    #: 0 for training, 1 for validation, and so on: lines of one run look different by it.
    style: int
    #: The path of the line, and of its marks.
    path: str
    marks: str
    #: From where to where it goes; of a validation also how low and how high between.
    said: str


@dataclass(frozen=True)
class EpochChart:
    """A small chart of one metric."""

    name: str
    lines: tuple[EpochLine, ...]
    #: The largest and the smallest value, and the numbers of the first and the last epoch.
    top: str
    bottom: str
    first: str
    last: str

    @property
    def said(self) -> str:
        """What it shows, in words."""
        lines = (" ".join(filter(None, (x.letter, x.of, x.said))) for x in self.lines)
        return f"{self.name}, epochs {self.first} to {self.last}: {'; '.join(lines)}."


def has_epochs(run: ReadRun) -> bool:
    """Whether there is a chart of a run's epochs: of two or more, with a metric."""
    return len(run.epochs) > 1 and any(map(_finite, _series(run.epochs).values()))


def epoch_charts(runs: Sequence[ReadRun]) -> list[EpochChart]:
    """The charts: the loss first, the learning rate last."""
    series = [_series(run.epochs) if has_epochs(run) else {} for run in runs]
    names = list(dict.fromkeys(name for each in series for name in each))
    groups: dict[str, list[str]] = {}
    sets = list(dict.fromkeys(each for run in runs for each in run.sets))
    # Training first, then its validation, then further sets.
    further = {name: _set_of(name, names, sets) is not None for name in names}
    for name in sorted(names, key=lambda name: (further[name], name.startswith(_VALIDATION))):
        groups.setdefault(_group(name, names, sets), []).append(name)
    order = sorted(groups, key=lambda name: name != "loss")
    shown = [name for name in order if name != LEARNING_RATE][: MOST - 1]
    shown += [LEARNING_RATE] * (LEARNING_RATE in groups)
    of = {name: printable(_of(name, names, sets)) for name in names}
    return [
        _chart(name, {each: of[each] for each in groups[name]}, runs, series) for name in shown
    ]


def _series(epochs: Sequence[Epoch]) -> dict[str, Floats]:
    """The values of each metric, and the learning rate: shape (epoch,)."""
    names = dict.fromkeys(name for each in epochs for name in each.metrics)
    found = {
        name: np.array([each.metrics.get(name, math.nan) for each in epochs]) for name in names
    }
    rates = [math.nan if e.learning_rate is None else e.learning_rate for e in epochs]
    found[LEARNING_RATE] = np.array(rates, float)
    return {name: values for name, values in found.items() if _finite(values)}


def _finite(values: Floats) -> bool:
    return bool(np.isfinite(values).any())


def _group(name: str, names: Sequence[str], sets: Sequence[str]) -> str:
    """The metric of the training that one of a validation belongs to."""
    rest = name.removeprefix(_VALIDATION)
    of_set = _set_of(name, names, sets)
    return rest if of_set is None else name.removeprefix(f"{of_set}_")


def _set_of(name: str, names: Sequence[str], sets: Sequence[str]) -> str | None:
    """The further validation set that a metric such as ``hard_loss`` is of."""
    of = (each for each in sets if name.removeprefix(f"{each}_") in {*names} - {name})
    return next(of, None)


def _of(name: str, names: Sequence[str], sets: Sequence[str]) -> str:
    """What a metric is of; "" where that is not known."""
    if (of_set := _set_of(name, names, sets)) is not None:
        return of_set
    if name.startswith(_VALIDATION):
        return "validation"
    # Of sets whose metrics alone are recorded the names are not known.
    of_a_set = any(name.endswith(f"_{each}") for each in names if each != name)
    known = f"{_VALIDATION}{name}" in names or not of_a_set
    return "training" if known and name != LEARNING_RATE else ""


def _chart(
    group: str,
    of: Mapping[str, str],
    runs: Sequence[ReadRun],
    series: Sequence[Mapping[str, Floats]],
) -> EpochChart:
    """The chart of a metric; ``of`` has the names that it has there, and what each is of."""
    validated = next(iter(of)).startswith(_VALIDATION)
    drawn = [
        (place, style, name)
        for place, own in enumerate(series)
        for style, name in enumerate(of, start=validated)
        if name in own
    ]
    every = np.concatenate([series[place][name] for place, _, name in drawn])
    known = every[np.isfinite(every)]
    low, high = float(known.min()), float(known.max())
    longest = max((runs[place].epochs for place, _, _ in drawn), key=len)
    lines = []
    for place, style, name in drawn:
        values = series[place][name]
        path, marks = _paths(values, low, high, len(longest))
        lines.append(
            EpochLine(
                letter=LETTERS[place] if len(runs) > 1 else "",
                of=of[name],
                style=style,
                path=path,
                marks=marks,
                said=_said(values, runs[place].epochs, validated=style > 0),
            )
        )
    ends = str(longest[0].number), str(longest[-1].number)
    return EpochChart(printable(group), tuple(lines), f"{high:.3g}", f"{low:.3g}", *ends)


def _said(values: Floats, epochs: Sequence[Epoch], *, validated: bool) -> str:
    """From where to where a metric went."""
    known = np.flatnonzero(np.isfinite(values))
    first, last = values[known[0]], values[known[-1]]
    said = f"{first:.4g} to {last:.4g}" if first != last else f"{last:.4g}"
    if not validated:
        return said
    # Whether more or less of a metric is better is not known.
    low, high = (known[f(values[known])] for f in (np.argmin, np.argmax))
    inner = [
        f"{word} {values[i]:.4g} in epoch {epochs[i].number}"
        for word, i in (("lowest", low), ("highest", high))
        if i not in (known[0], known[-1]) and values[i] not in (first, last)
    ]
    return ", ".join([said, *inner])


def _paths(values: Floats, low: float, high: float, epochs: int) -> tuple[str, str]:
    """The paths of a line, and of its marks where it has few points.

    A line runs through the epochs that have a value: after not every one is validated.
    """
    places = _thinned(values, np.flatnonzero(np.isfinite(values)))
    x = _EDGE + places * (WIDTH - 2 * _EDGE) / max(1, epochs - 1)
    # Halves, since the difference of large numbers may overflow.
    width = high / 2 - low / 2
    share = (values[places] / 2 - low / 2) / width if width > 0 else np.full(len(x), 0.5)
    points = [
        f"{a:.1f} {b:.1f}"
        for a, b in zip(x, HEIGHT - _EDGE - share * (HEIGHT - 2 * _EDGE), strict=True)
    ]
    marks = "".join(f"M{point}h0" for point in points) if len(points) <= _MARKED else ""
    return f"M{'L'.join(points)}", marks


def _thinned(values: Floats, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of many places those of the smallest and the largest value of each stretch."""
    if len(places) <= _POINTS:
        return places
    kept: Iterator[int] = (
        int(part[f(values[part])])
        for part in np.array_split(places, _POINTS // 2)
        for f in (np.argmin, np.argmax)
    )
    return np.unique(np.fromiter(kept, np.int64))
