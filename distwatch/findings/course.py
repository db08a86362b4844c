"""What is known of a training as a whole: its loss, its data, and how well a constant does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distwatch.findings.tables import Recorded, TableDigest
from distwatch.records import TRAIN, TRAIN_ON_BATCH, Card, Epoch, Floats, Layer
from distwatch.statistics import ROW, merge_axis

_COUNT, _ZEROS, _N, _MEAN, _M2, _MIN, _MAX = (
    ROW.fields.index(name) for name in ("count", "zeros", "n", "mean", "m2", "min", "max")
)

#: A loss that falls by less than this part of itself in a quarter of the run is at rest.
AT_REST = 0.05

#: Better than a constant by less than this part of its loss is no better.
NO_BETTER = 0.02

#: A training that does without so much of a constant's loss is solved.
SOLVED = 0.9

#: In fewer stretches than this no course is seen.
_STRETCHES = 4


class Level(NamedTuple):
    """What the values of a signal were over all steps and replicas."""

    name: str
    n: float
    mean: float
    std: float
    min: float
    max: float
    #: The share of elements that are exactly zero.
    zeros: float
    #: Whether the smallest and the largest of each batch were whole numbers.
    whole: bool
    #: How many elements a step has, on average.
    per_step: float

    @property
    def size(self) -> float:
        """The largest absolute value."""
        return max(abs(self.min), abs(self.max))

    @property
    def two_valued(self) -> bool:
        """Whether all values are 0 or the largest: their variance follows from their mean."""
        return self.min == 0 < self.max and self.of_two

    @property
    def of_two(self) -> bool:
        """Whether all values are the smallest or the largest, as labels of two classes are."""
        return self.min < self.max and math.isclose(
            self.std**2, (self.mean - self.min) * (self.max - self.mean), rel_tol=1e-6
        )

    @property
    def binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return self.two_valued and self.max == 1

    def is_one_hot(self, units: int | None) -> bool:
        """Whether of so many values exactly one is 1, on average, and the others are 0."""
        return (
            units is not None
            and units > 1
            and self.binary
            and math.isclose(self.mean, 1 / units, rel_tol=1e-6)
        )


class LossCourse(NamedTuple):
    """How the loss went: its mean in consecutive stretches of the run, of equal length."""

    means: Floats
    #: The standard deviation of a single step's loss around its stretch's mean.
    noise: float
    steps: int

    @property
    def first(self) -> float:
        """In the first stretch."""
        return float(self.means[0])

    @property
    def last(self) -> float:
        """In the last eighth of the run."""
        return float(self.means[-max(len(self.means) // 8, 1) :].mean())

    @property
    def before_half(self) -> float:
        """In the second quarter of the run."""
        half = len(self.means) // 2
        return float(self.means[half // 2 : half].mean())

    @property
    def falls(self) -> bool:
        """Whether it fell over the run by more than its noise explains."""
        half = len(self.means) // 2
        before, after = self.means[:half], self.means[-half:]
        error = float(np.sqrt((before.var() + after.var()) / half))
        return bool(before.mean() - after.mean() > 3 * error)

    @property
    def rests(self) -> bool:
        """Whether it fell by hardly any part of itself in the last quarter."""
        return self.last_fall <= AT_REST * abs(self.last)

    @property
    def last_fall(self) -> float:
        """How much lower it is in the last quarter than in the one before."""
        quarter = max(len(self.means) // 4, 1)
        return float(self.means[-2 * quarter : -quarter].mean() - self.means[-quarter:].mean())


@dataclass(frozen=True)
class Course:
    """What rules about a training look at."""

    card: Card
    loss: LossCourse | None
    inputs: tuple[Level, ...]
    target: Level | None
    prediction: Level | None
    #: What the model says in the last part of the run: mean and standard deviation.
    said: tuple[float, float] | None
    epochs: tuple[Epoch, ...]
    #: What ended the run; see `Recorded`.
    ended: str | None

    @property
    def constant(self) -> float | None:
        """The loss that the best constant output would have, at most; None if unknown."""
        return None if self.card.own_loss else constant_loss(self.card, self.target)

    def layer_of_most(self, what: str) -> Layer | None:
        """The layer with the largest "dropout" or "penalty"; None where none has one."""
        having = [x for x in self.card.layers if getattr(x, what) is not None]
        return max(having, key=lambda layer: getattr(layer, what), default=None)

    @property
    def batch(self) -> float | None:
        """How many examples a step has, on average; None if the last layer has no units."""
        layer = self.card.last_layer
        if self.prediction is None or layer is None or not layer.units:
            return None
        return self.prediction.per_step / layer.units

    @property
    def comparable_constant(self) -> float | None:
        """A constant's loss, where that of the model can be compared with it."""
        constant = self.constant
        known = constant is not None and constant > 0 and not self.card.further_terms
        return constant if known else None

    @property
    def skill(self) -> float | None:
        """Which part of a constant's loss the model does without at the end; 1 is perfect.

        None where the loss has further terms, or is of a kind for which it is not known what
        a constant would reach.
        """
        constant = self.comparable_constant
        if self.loss is None or constant is None:
            return None
        return 1.0 - self.loss.last / constant

    @property
    def is_learning(self) -> bool:
        """Whether it is better than a constant, and still getting better."""
        loss, skill = self.loss, self.skill
        if loss is None or skill is None:
            return False
        return skill > NO_BETTER and loss.falls and not loss.rests


def course_of(run: Recorded) -> Course:
    """Gather what is known of a training."""
    levels = {level.name: level for table in run.tables for level in _levels(table)}
    said = [
        spread
        for table in run.tables
        for i, name in enumerate(table.table.names)
        if name == "data/prediction" and (spread := _last_part(table, i)) is not None
    ]
    return Course(
        run.info.card or Card(),
        # Where nothing is trained, a loss says nothing of learning.
        _loss(run) if run.info.phase in (TRAIN, TRAIN_ON_BATCH) else None,
        tuple(level for name, level in levels.items() if name.startswith("data/input")),
        levels.get("data/target"),
        levels.get("data/prediction"),
        said[0] if said else None,
        tuple(run.epochs),
        run.ended,
    )


def constant_loss(card: Card, target: Level | None) -> float | None:
    """The largest loss that the best constant output could have, given the targets.

    That of all targets alike: where they differ in mean from column to column, a constant for
    each column does better.
    """
    if target is None or not target.n:
        return None
    units = card.last_layer.units if card.last_layer else None
    if card.loss == "mean_squared_error":
        return target.std**2
    if card.loss == "mean_absolute_error":
        return _least_deviation(target)
    if card.loss == "binary_crossentropy" and 0 < target.mean < 1 and target.max <= 1:
        p = target.mean
        return -p * math.log(p) - (1 - p) * math.log(1 - p)
    if card.loss in ("categorical_crossentropy", "sparse_categorical_crossentropy"):
        return math.log(units) if units and units > 1 else None
    return None


def _least_deviation(target: Level) -> float:
    """The mean absolute deviation from the best constant, at most."""
    if target.of_two:
        # The best is the more frequent of the two.
        return min(target.mean - target.min, target.max - target.mean)
    return target.std


def _levels(table: TableDigest) -> list[Level]:
    found = []
    totals = merge_axis(ROW, table.totals, axis=0)
    for i, name in enumerate(table.table.names):
        row = totals[i]
        if name.startswith("data/") and row[_N]:
            std = math.sqrt(row[_M2] / row[_N])
            found.append(
                Level(
                    name,
                    row[_N],
                    row[_MEAN],
                    std,
                    row[_MIN],
                    row[_MAX],
                    row[_ZEROS] / row[_COUNT],
                    bool(table.whole[i]),
                    row[_N] / table.steps,
                )
            )
    return found


def _last_part(table: TableDigest, i: int) -> tuple[float, float] | None:
    n, total, squares = (
        float(table.timeline.in_last_part(name)[i]) for name in ("finite", "total", "squares")
    )
    if not n:
        return None
    mean = total / n
    return mean, math.sqrt(max(squares / n - mean**2, 0.0))


def _loss(run: Recorded) -> LossCourse | None:
    for table in run.tables:
        for i, signal in enumerate(table.table.signals):
            if signal.name == "loss" and signal.reference == "none":
                return _loss_of(table, i)
    return None


def _loss_of(table: TableDigest, i: int) -> LossCourse | None:
    sums = table.timeline.sums
    n, total, squares = (sums[name][:, i] for name in ("finite", "total", "squares"))
    there = n > 0
    if there.sum() < _STRETCHES or not there[table.timeline.stretches - 1]:
        # Where it ends in NaN or Inf there is no end to be compared with anything.
        return None
    means = total[there] / n[there]
    noise = np.sqrt(np.maximum(squares[there] / n[there] - means**2, 0.0))
    return LossCourse(means, float(np.median(noise)), table.steps)
