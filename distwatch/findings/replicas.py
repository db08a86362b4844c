"""How the replicas differ, and which one differs from the others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distwatch.findings.batches import same_inputs, stuck_inputs
from distwatch.findings.copies import copies_differ
from distwatch.findings.findings import NOTE, WARNING, Finding
from distwatch.findings.origins import GIVEN, kind_of, origin
from distwatch.findings.rules import AT_ONCE, rule
from distwatch.findings.tables import Recorded, TableDigest
from distwatch.records import Floats, RunInfo
from distwatch.statistics import ROW, merge_axis
from distwatch.text import counted

#: A replica's mean matters from this many of the signal's standard deviations on, and its
#: own standard deviation from this factor on. Less is ignored, however certain it is.
SKEW = 0.25
WIDER = 1.2

#: A difference is certain from this many standard errors on: of so few stretches, and of one
#: more each; of the last number and more it is the same. By chance that happens in fewer than
#: 1 of 10,000 tests (Student's t), so rarely because every signal on every replica is tested.
_FEWEST = 5
_SURE = (16.0, 11.4, 9.3, 8.0, 7.2, 6.7, 6.3, 6.0)

#: Steps without a change that are no chance.
_STRETCHES = 12

#: Signals of variables, of which each replica holds a copy or one of its own, and numbers that
#: a step names, of which nobody knows whether they are to be equal.
_KEPT = ("weight/", "update/", "log/")

#: From this modified z-score on one value is an outlier among others: B. Iglewicz & D. C.
#: Hoaglin, "How to Detect and Handle Outliers" (1993), with the median absolute deviation.
_OUTLIER = 3.5
TO_SIGMA = 0.6745


class Oddity(NamedTuple):
    """One replica that differs from the others in one signal."""

    #: Its position, and whether it alone is odd, which cannot be known of two replicas.
    replica: int
    alone: bool
    inputs: bool
    #: How far beyond what counts.
    strength: float
    signal: str
    #: By how much: in standard deviations, or as a factor of the standard deviation; both
    #: are None where the signal never changes on this replica.
    shift: float | None = None
    factor: float | None = None


@rule("ReplicasDiffer")
def apart(run: Recorded) -> list[Finding]:
    """How far the replicas' means lie apart, in the signal where they differ most."""
    if len(run.info.replicas) < 2 or not any(table.steps for table in run.tables):
        return []
    main = [table for table in run.tables if table.of_changes] or run.tables
    found = [each for each in map(_furthest, main) if each is not None]
    if not found:
        text = (
            "The replicas cannot be compared: at no step were values of one signal recorded on "
            "two of them."
        )
        return [Finding("replicas_apart", NOTE, text)]
    _, name, by, position, std = max(found)
    replica = run.info.replicas[position]
    text = (
        f"The replicas' means differ most in {name} (by {by:.4g} within a step, on average); "
        f"the standard deviation there is largest on replica {replica} ({std:.4g})."
    )
    return [Finding("replicas_apart", NOTE, text, name, replica=replica)]


@rule("EqualInputs", asked=AT_ONCE)
def equal_inputs(run: Recorded) -> Iterator[Finding]:
    """Which replicas are given the same batches, or the same batch again and again."""
    for table in run.tables:
        if table.batches is not None:
            yield from same_inputs(table.table, table.batches, table.replicas, table.steps)
            yield from stuck_inputs(table.table, table.batches, table.replicas)


@rule("CopiesDiffer", asked=AT_ONCE)
def different_copies(run: Recorded) -> list[Finding]:
    """Variables whose copies should be equal on all replicas, and are not."""
    return copies_differ(run.info, [(table.table, table.copies) for table in run.tables])


@rule("OddReplica")
def odd_replicas(run: Recorded) -> list[Finding]:
    """Which replicas differ from the others, step after step.

    This requires a difference that matters, a standard error that rules out chance, and, to
    call one replica odd, that the others are alike. Of two that differ it is not known
    which one is odd.
    """
    if len(run.info.replicas) < 2:
        return []
    found = [oddity for table in run.tables for oddity in _oddities(table)]
    origins = {each.name: origin(each) for each in run.info.signals}
    found.sort(key=lambda each: (_group(each), origins[each.signal], -each.strength))
    return [_finding(run.info, list(same)) for _, same in groupby(found, key=_group)]


def _group(odd: Oddity) -> tuple[bool, bool, int]:
    """What one sentence reports: inputs first, then what is certain to be one replica's."""
    return (not odd.inputs, not odd.alone, odd.replica if odd.alone else -1)


def _finding(info: RunInfo, found: list[Oddity]) -> Finding:
    first = found[0]
    others = tuple(dict.fromkeys(o.signal for o in found if o.signal != first.signal))
    replica, two = info.replicas[first.replica], len(info.replicas) == 2
    than = f"replica {info.replicas[1 - first.replica]}" if two else "the others"
    brief = _difference(first, replica, than)
    if others:
        brief += f", and it differs in {counted(len(others), 'more signal')}"
    text = f"{brief}."
    if not first.alone and not two:
        text += " The other replicas differ among themselves, too."
    if first.inputs:
        kind = "skewed_inputs"
    else:
        kind = "odd_replica" if first.alone else "replicas_differ"
        text += " Check the data that it is given."
    brief = brief[0].lower() + brief[1:]
    return Finding(kind, WARNING, text, first.signal, None, replica, others, brief)


def _difference(odd: Oddity, replica: int, than: str) -> str:
    where = f"Replica {replica} is given different data in {odd.signal} than {than}"
    if not odd.inputs:
        where = f"Replica {replica} differs from {than} in {odd.signal}"
    if odd.shift is not None:
        return f"{where}: its mean is off by {odd.shift:+.2g} standard deviations"
    if odd.factor is None:
        return f"{where}: it never changes on this replica, but does elsewhere"
    return f"{where}: its standard deviation is {odd.factor:.2g} times as large"


def _oddities(table: TableDigest) -> Iterator[Oddity]:
    std = ROW.compute(ROW.unpack(merge_axis(ROW, table.totals, axis=0)))["std"]
    # Whether copies are equal is another question, and what a layer keeps on each replica,
    # such as the statistics of BatchNormalization, differs by design.
    own = np.array([not name.startswith(_KEPT) for name in table.table.names])
    mean, mean_sure = _lasting(table, "mean")
    width, width_sure = _lasting(table, "width")
    for key, off, scale, sure, limit in (
        ("shift", mean, std, mean_sure, SKEW),
        ("factor", width, np.ones_like(std), width_sure, float(np.log(WIDER))),
    ):
        counts = sure & own & (np.abs(off / scale) > limit)
        for replica, signal, alone in _outliers(off, counts, limit * scale):
            by = float(off[replica, signal] / scale[signal])
            how = {key: by if key == "shift" else float(np.exp(by))}
            name = table.table.names[signal]
            yield Oddity(replica, alone, _given(name), abs(by) / limit, name, **how)
    yield from _frozen(table)


def _given(name: str) -> bool:
    """Whether a signal is what the model is given."""
    return kind_of(name) in GIVEN


def _frozen(table: TableDigest) -> Iterator[Oddity]:
    """Replicas on which a signal never changed, while it did on the others."""
    n, l1 = (table.totals[..., ROW.fields.index(name)] for name in ("n", "l1"))
    changing = (n > 0) & (l1 > 0)
    still = (n > 0) & (l1 == 0) & (changing.sum(axis=0) == len(table.replicas) - 1)
    for replica, signal in np.argwhere(still):
        known = table.steps >= _STRETCHES and not table.table.names[signal].startswith(_KEPT)
        if known and table.table.signals[signal].reference != "none":
            name = table.table.names[signal]
            yield Oddity(int(replica), True, _given(name), np.inf, name)


def _lasting(table: TableDigest, value: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """How far each replica lies from the others on average, and whether that is certain.

    Neighbouring steps may be correlated, so the standard error is that between stretches (the
    method of batch means). And data come again in each epoch: however many there are, the
    evidence is that of the steps of one. So the largest of three errors counts: between
    stretches of the run, between stretches of an epoch, all epochs taken together, and of as
    many single steps as an epoch has. Shapes: (replica, signal) both.
    """
    line, over = table.timeline, table.over_epochs
    mean, stretches, error = _batch_means(line.sums[value], line.sums[f"{value}s"])
    _, places, of_places = _batch_means(over.sums[value], over.sums[f"{value}s"])
    total = line.sums[f"{value}s"].sum(axis=0)
    squares = line.sums[f"{value}_squares"].sum(axis=0) / total - mean**2
    of_steps = np.sqrt(np.maximum(squares, 0.0) / np.minimum(total, over.longest))
    error = np.maximum(error, np.maximum(of_places, of_steps))
    return mean, np.abs(mean) > _errors(np.minimum(stretches, places)) * error


def _batch_means(sums: Floats, steps: Floats) -> tuple[Floats, Floats, Floats]:
    """The mean over all stretches, how many there are, and the mean's standard error."""
    total, stretches = steps.sum(axis=0), (steps > 0).sum(axis=0, dtype=float)
    mean = sums.sum(axis=0) / total
    squares = ((sums - steps * mean) ** 2).sum(axis=0)
    return mean, stretches, np.sqrt(squares * stretches / np.maximum(stretches - 1, 1)) / total


def _errors(stretches: Floats) -> Floats:
    """How many standard errors rule out chance, given how well they are known."""
    few = np.clip(stretches.astype(int) - _FEWEST, 0, len(_SURE) - 1)
    return np.where(stretches >= _FEWEST, np.take(_SURE, few), np.inf)


def _outliers(mean: Floats, counts: Floats, least: Floats) -> Iterator[tuple[int, int, bool]]:
    """The replica, the signal, and whether that replica alone differs from the others.

    Each lies ``mean`` from the average of the others, to which an odd one contributes, too;
    so it also has to lie ``least`` from their median. Shapes: (replica, signal), least
    (signal,).
    """
    for signal in np.flatnonzero(counts.any(axis=0)):
        values, known = mean[:, signal], np.isfinite(mean[:, signal])
        off = np.abs(values - np.median(values[known]))
        usual = np.median(off[known])
        odd = counts[:, signal] & (TO_SIGMA * off > _OUTLIER * usual) & (off > least[signal])
        if known.sum() > 2 and odd.any():
            yield from ((int(replica), int(signal), True) for replica in np.flatnonzero(odd))
        else:
            # Two are equally far from each other: the second is described.
            size = np.where(counts[:, signal], np.abs(values), -1.0)
            yield (1 if len(values) == 2 else int(np.argmax(size))), int(signal), False


def _furthest(table: TableDigest) -> tuple[float, str, float, int, float] | None:
    """Where the replicas differ most: by how many widths, the signal, by how much,
    the position of the replica that spreads most there, and its std."""
    by = table.replica_spread()
    std = ROW.compute(ROW.unpack(table.totals))["std"]
    if np.isnan(by).all() or np.isnan(std).all():
        return None
    # Signals are of different scales, so each is measured in its own widths.
    widest = np.maximum(np.nanmax(np.nan_to_num(std), axis=0), np.finfo(float).tiny)
    signal = int(np.nanargmax(by / widest))
    replica = int(np.nanargmax(std[:, signal]))
    return (
        float(by[signal] / widest[signal]),
        table.table.names[signal],
        float(by[signal]),
        replica,
        float(std[replica, signal]),
    )
