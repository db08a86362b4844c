"""Comparing two runs: from their stores to a verdict."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distwatch.analysis.diffs.descriptions import differences, extents
from distwatch.analysis.diffs.joining import RowPair, TablePair, common_steps, pairs_of
from distwatch.analysis.diffs.partings import NEVER, Partings, Rounding
from distwatch.analysis.diffs.precision import Precision, precision_of
from distwatch.analysis.diffs.result import RunDifference, SignalDifference, Verdict
from distwatch.analysis.matching import Matched
from distwatch.analysis.run import Run
from distwatch.errors import ConfigError
from distwatch.findings.distances import Distance, one_a_replica
from distwatch.findings.origins import BACKWARDS, GIVEN, kind_of, origin
from distwatch.records import Amplification, Ints
from distwatch.signals import Signal
from distwatch.statistics import ROW
from distwatch.store import StoredRun
from distwatch.store.readable_tables import Array
from distwatch.text import counted, listed

_COUNT = ROW.fields.index("count")

#: What is allowed: a relative difference, one a signal, or None for what rounding explains.
Tolerance = float | Amplification | None

#: Called with how many more steps of a table were compared.
Progress = Callable[[int], None]


def diff(
    a: str | Path | Run,
    b: str | Path | Run,
    *,
    tolerance: Tolerance = None,
    phase: str | None = None,
    progress: Progress = lambda _: None,
) -> RunDifference:
    """Find the first step, replica and signal at which two runs part.

    Rows are joined by the number of the step, and compared replica by replica; where the
    runs have other replicas, merged over all of them. They part where a signal differs by
    more than rounding explains: beyond the root of the coarser run's precision (3.5e-4 for
    float32, 0.088 for bfloat16), and ten times beyond all that it differed by before, so
    that differences which grow gradually, as those of rounding do, are no parting. See
    `distwatch.analysis.diffs.partings` for the rule and where its numbers come from.

    A relative difference is that of a signal's mean, mean size, root mean square or standard
    deviation, the largest of them, over the smaller root mean square; it is infinite where
    only one run has NaN, or as many elements. The memory that it takes does not grow with the
    runs' lengths but for the numbers of their steps.

    Args:
        a, b: paths or URLs of runs, or opened ones.
        tolerance: the relative difference that is allowed at every step, in place of what
            rounding explains; 0 allows none. Or what `distwatch.amplification` measured: then
            each signal has a tolerance of its own, ten times what rounding of the inputs grew
            to, and the root of the precision is that of the others.
        phase: the phase to compare, of runs that are given by path; see `open_run`.
        progress: called with how many more steps of a table were compared.

    Raises:
        NotARunError: there is no run.
        FormatVersionError, DamagedStoreError: it cannot be read.
        ConfigError: the tolerance is no number from 0 on, a run has no such phase, is only a
            part of one, or the runs have no signal or no step in common.
    """
    number = None if isinstance(tolerance, Amplification) else tolerance
    if number is not None and not (number >= 0 and math.isfinite(number)):
        raise ConfigError(f"tolerance={tolerance!r}: give a number from 0 on, such as 1e-6.")
    one, other = (_stored(each, phase) for each in (a, b))
    # What meets damage is read once more, without it.
    return one.reading(
        lambda: other.reading(lambda: _Comparison(one, other, tolerance).result(progress))
    )


def _stored(run: str | Path | Run, phase: str | None) -> StoredRun:
    if isinstance(run, Run):
        if run.part:
            raise ConfigError(f"{run!r} is a part of a run; whole runs are compared.")
        return StoredRun(run.path, phase or run.phase)
    return StoredRun(run, phase)


class _Comparison:
    """Two runs, while they are compared."""

    def __init__(self, a: StoredRun, b: StoredRun, tolerance: Tolerance) -> None:
        self._runs = a, b
        self._matched = Matched(a.info.signals, b.info.signals)
        self._merged = set(a.info.replicas) != set(b.info.replicas)
        self._formats = precision_of(a), precision_of(b)
        coarser = max(self._formats, key=lambda each: each.eps)
        self._rounding = _rounding(coarser, tolerance)
        self._signals = [s for s in self._matched.common if not self._why_not(s)]
        self._pairs = pairs_of(a, b, self._signals, merged=self._merged)
        #: Of which steps the batches are partial ones, where replicas are other ones.
        self._partial: set[int] = set()
        self._check()

    def _check(self) -> None:
        a, b = self._runs
        if not self._signals:
            raise ConfigError(
                f"{a.path} and {b.path} have no signal in common that could be compared; they "
                f"have {listed(a.info.names[:5])}, and {listed(b.info.names[:5])}."
            )
        if not any(len(common_steps(pair.a, pair.b)[0]) for pair in self._pairs):
            raise ConfigError(f"{a.path} and {b.path} have no step in common.")

    def _why_not(self, signal: Signal) -> str:
        """Why a common signal is not compared; empty where it is."""
        if signal.name in self._matched.otherwise_measured:
            return "measured otherwise"  # Which is said among the differences.
        kind = kind_of(signal.name)
        if self._merged and kind == "gradient_local":
            return "each replica's own gradient depends on its part of the batch"
        if self._merged and kind == "loss" and signal.scaled is not None:
            return "it may be divided by the number of replicas, or not"
        return ""

    def result(self, progress: Progress) -> RunDifference:
        """Compare all rows."""
        looked = [(pair, self._looked_at(pair, progress)) for pair in self._pairs]
        doubtful = _settle(looked) if self._rounding.growing else []
        _drop_carried_updates(looked)
        found = [
            self._of_signal(pair, partings, place)
            for pair, partings in looked
            for place in range(len(pair.signals))
        ]
        order = {signal.name: origin(signal) for signal in self._signals}
        ranked = sorted(found, key=lambda each: _rank(each, order))
        a, b = self._runs
        return RunDifference(
            a=str(a.path),
            b=str(b.path),
            verdict=_verdict(ranked),
            differences=(
                *differences(a, b, self._matched, self._formats),
                *self._inputs(found),
            ),
            notes=(*self._notes(ranked, doubtful), *extents(a, b)),
            signals=tuple(ranked),
            tolerance=self._rounding.tolerance,
            explicit=not self._rounding.growing,
            measured=any(s.name in self._rounding.measured for s in self._signals),
            formats=(self._formats[0].name, self._formats[1].name),
            steps=max(each.steps for each in found),
            replicas=0 if self._merged else len(a.info.replicas),
        )

    def _looked_at(self, pair: TablePair, progress: Progress) -> Partings:
        distance = Distance(pair.signals, self._rounding.eps, merged=pair.merged)
        partings = Partings(pair.signals, pair.series, self._rounding)
        whole = _WholeBatches(pair)
        smallest = np.finfo(np.float64).tiny
        for rows in pair.rows():
            # No difference of a mean need be left of one that is there.
            d = np.where(rows.equal, 0.0, np.maximum(distance.of(rows.a, rows.b), smallest))
            partings.observe(rows.step, d, rows.equal, rows.present[..., None] & whole(rows))
            progress(len(rows.step))
        self._partial |= whole.partial
        partings.end()
        return partings

    def _of_signal(self, pair: TablePair, partings: Partings, place: int) -> SignalDifference:
        events = partings.events
        step = events.step[:, place]
        first = int(step.min())
        on = np.flatnonzero(step == first) if first < NEVER else np.zeros(0, np.int64)
        at = on[np.argmax(events.difference[on, place])] if len(on) else 0
        most = int(np.argmax(partings.largest[:, place]))
        unequal, beyond = (
            int(each[:, place].min())
            for each in (partings.first_unequal, partings.first_beyond)
        )
        largest_step = int(partings.largest_step[most, place])
        return SignalDifference(
            signal=pair.signals[place].name,
            step=first if len(on) else None,
            replicas=() if self._merged else tuple(pair.a.replicas[i] for i in on),
            difference=float(events.difference[at, place]) if len(on) else 0.0,
            explained=float(events.explained[at, place]) if len(on) else 0.0,
            first_unequal=unequal if unequal < NEVER else None,
            first_beyond=beyond if beyond < NEVER else None,
            largest=float(partings.largest[most, place]),
            largest_step=largest_step if largest_step >= 0 else None,
            steps=int(partings.compared[:, place].max()),
        )

    def _inputs(self, found: Sequence[SignalDifference]) -> Iterator[str]:
        """Whether the runs saw the same data, which the same replicas can tell bit by bit."""
        inputs = [each for each in found if kind_of(each.signal) in GIVEN]
        steps = [each.first_unequal for each in inputs if each.first_unequal is not None]
        if steps and not self._merged:
            first = min(steps)
            names = [each.signal for each in inputs if each.first_unequal == first]
            s = "s" * (len(names) == 1)
            yield f"Data: {listed(names)} differ{s} from step {first} on."

    def _notes(self, found: list[SignalDifference], doubtful: list[str]) -> Iterator[str]:
        """What was not compared, or not believed, and why."""
        if found[0].step in self._partial:
            yield (
                f"The batch of step {found[0].step} is smaller than those before. Where "
                "replicas have unequal parts of a batch, Keras weighs these alike, so the "
                "training itself depends on the number of replicas there."
            )
        if doubtful:
            more = f" and {len(doubtful) - 1} more" if len(doubtful) > 1 else ""
            yield (
                f"{doubtful[0]}{more}: different from the first step on, of which nothing "
                "follows in what the model computes. That is rounding where a gradient "
                "cancels out, as before a normalization."
            )
        reasons: dict[str, list[str]] = {}
        for signal in self._matched.common:
            if why := self._why_not(signal):
                reasons.setdefault(why, []).append(signal.name)
        reasons.pop("measured otherwise", None)
        for why, names in reasons.items():
            yield f"Not compared: {listed(names[:5])}{' ...' * (len(names) > 5)}, since {why}."
        yield from self._steps(found)

    def _steps(self, found: list[SignalDifference]) -> Iterator[str]:
        """Steps of which there are no two rows; many tables have the same."""
        steps = {each.signal: each.steps for each in found}
        said: Counter[tuple[int, int, int]] = Counter()
        for pair in self._pairs:
            both = len(common_steps(pair.a, pair.b)[0])
            compared = max(steps[signal.name] for signal in pair.signals)
            only = pair.a.steps - both, pair.b.steps - both
            said[(*only, both - compared)] += len(pair.signals)
        for (only_a, only_b, passed), signals in said.items():
            parts = [f"{only_a:,} only in A"] * (only_a > 0)
            parts += [f"{only_b:,} only in B"] * (only_b > 0)
            parts += [f"{passed:,} of partial batches"] * (passed > 0)
            if parts:
                yield f"Steps of {counted(signals, 'signal')} not compared: {listed(parts)}."


#: Two samples of one spread are of one size, so a difference by rounding may be so many times
#: another one.
_SAMPLES = 10.0


def _rounding(coarser: Precision, given: Tolerance) -> Rounding:
    """What is allowed, in a run of this precision."""
    if isinstance(given, Amplification):
        # What did not grow at all still has the rounding of the runs themselves.
        measured = {
            name: _SAMPLES * coarser.eps * max(factor, 1.0)
            for name, factor in given.factors.items()
        }
        return Rounding(coarser.eps, coarser.tolerance, measured=measured)
    return Rounding(
        coarser.eps, coarser.tolerance if given is None else given, growing=given is None
    )


class _WholeBatches:
    """Which merged rows are of whole batches, where replicas are other ones.

    A change from batch to batch pairs rows within each replica; of a partial batch, other
    replicas pair other rows.
    """

    def __init__(self, pair: TablePair) -> None:
        self._of_batches = np.array(
            [pair.merged and not one_a_replica(signal) for signal in pair.signals]
        )
        self._pairs_rows = self._of_batches & np.array(
            [signal.reference != "none" for signal in pair.signals]
        )
        self._most = np.zeros((pair.series, len(pair.signals)))
        self.partial: set[int] = set()

    def __call__(self, rows: RowPair) -> Array:
        count = rows.a[..., _COUNT]
        most = np.maximum(np.maximum.accumulate(count, axis=0), self._most)
        self._most = most[-1]
        partial = self._of_batches & (count < most)
        self.partial.update(rows.step[partial.any(axis=(1, 2))].tolist())
        return np.asarray(~(partial & self._pairs_rows))


def _settle(looked: list[tuple[TablePair, Partings]]) -> list[str]:
    """Believe backward signals that differ from the first step on, or not; see `partings`.

    Returns:
        The names of those that are not believed.
    """
    kinds: dict[str, list[bool]] = {}
    before: list[Ints] = []
    for pair, partings in looked:
        for place, signal in enumerate(pair.signals):
            kind = kind_of(signal.name)
            kinds.setdefault(kind, []).append(bool(partings.from_first.some[:, place].any()))
            if kind not in BACKWARDS:
                some = partings.events.some[:, place]
                before.append(partings.events.before[some, place])
    # The last step at which what parts first among activations and losses had not parted.
    last_equal = min((int(each.min()) for each in before if len(each)), default=NEVER)
    nothing_forward = not set(kinds) - set(BACKWARDS)
    doubtful = []
    for pair, partings in looked:
        first, events = partings.from_first, partings.events
        most = np.array(
            [2 * sum(k) > len(k) for s in pair.signals for k in [kinds[kind_of(s.name)]]]
        )
        believed = first.some & (most | nothing_forward | (last_equal <= first.step))
        events.take(believed & (first.step < events.step), first)
        unbelieved = (first.some & ~believed & ~events.some).any(axis=0)
        doubtful += [pair.signals[place].name for place in np.flatnonzero(unbelieved)]
    return doubtful


def _drop_carried_updates(looked: list[tuple[TablePair, Partings]]) -> None:
    """Let go of updates that carry on what one step's gradient had; see `partings`."""
    of_one_step: dict[str, set[int]] = defaultdict(set)
    for pair, partings in looked:
        for place, steps in partings.unconfirmed.items():
            kind, _, path = pair.signals[place].name.partition("/")
            if kind.startswith("gradient"):
                of_one_step[path] |= steps
    for pair, partings in looked:
        for place, signal in enumerate(pair.signals):
            kind, _, path = signal.name.partition("/")
            if kind == "update" and path in of_one_step:
                events = partings.events
                carried = np.isin(events.step[:, place], [*of_one_step[path]])
                events.step[carried, place] = NEVER


def _rank(each: SignalDifference, order: dict[str, Any]) -> tuple[Any, ...]:
    """Those that part first, by step and by the order within a step; then the others."""
    if each.step is not None:
        return 0, each.step, *order[each.signal], -each.difference
    # Of what grows, too, the first comes first.
    return 1, NEVER if each.first_beyond is None else each.first_beyond, -each.largest


def _verdict(ranked: Sequence[SignalDifference]) -> Verdict:
    if ranked[0].step is not None:
        return "parted"
    if all(each.first_unequal is None for each in ranked):
        return "identical"
    return "within_tolerance"
