"""Compare what a chain of killed trainings left with a training that was never killed."""

from __future__ import annotations

import numpy as np

from distwatch.errors import ConfigError, NotARunError
from distwatch.store import StoredRun


def what_is_acknowledged(path, committed):
    """None, or what is wrong in what the last start left, of which so many steps were told."""
    try:
        found = [StoredRun(path, phase).segments for phase in StoredRun(path).phases]
    except NotARunError:
        return f"there is no run, and {committed} were acknowledged" if committed else None
    except Exception as error:
        return f"not opened: {type(error).__name__}: {error}"
    segments = [segment for phase in found for segment in phase]
    last = max((segment.info.origin.start for segment in segments), default=0)
    kept = sum(
        table.steps
        for segment in segments
        if segment.info.origin.start == last
        for table in segment.tables.values()
    )
    return f"{kept} steps, {committed} were acknowledged" if kept < committed else None


def what_was_lost(path, phase):
    try:
        return StoredRun(path, phase).lost
    except Exception:
        return 0


def what_is_wrong(path, whole, phase):
    """What a reader finds in a run that is not in one of a training never killed, or other."""
    try:
        run, whole = StoredRun(path, phase), StoredRun(whole, phase)
    except ConfigError as error:
        return [f"{phase}: {error}"]
    begun = [segment.info.origin.step for segment in run.segments]
    wrong = []
    if list(run.tables) != list(whole.tables):
        return [f"{phase}: tables {list(run.tables)}, expected {list(whole.tables)}"]
    for name, table in run.tables.items():
        try:
            wrong += [
                f"{phase} {name}: {each}"
                for each in _faults(
                    table, whole.tables[name], begun, closed=run.ended is not None
                )
            ]
        except Exception as error:
            wrong.append(f"{phase} {name} is not read: {type(error).__name__}: {error}")
    return wrong


def _faults(table, whole, begun, *, closed):
    steps, wanted = table.read("step"), whole.read("step")
    if not np.isin(steps, wanted).all() or len(set(steps)) != len(steps):
        yield f"steps {steps.tolist()}, expected of {wanted.tolist()}"
        return
    missing = np.setdiff1d(wanted, steps)
    if not closed:
        # Its last start had no step left to do, so none says where the one before had come to.
        missing = missing[missing < steps[-1]]
    if len(missing) != table.lost:
        yield f"{table.lost} steps are declared lost, and {missing.tolist()} are missing"
    places = np.searchsorted(wanted, steps)
    for name in ("epoch", "iteration"):
        if not np.array_equal(table.read(name), whole.read(name)[places]):
            yield f"{name}: {table.read(name).tolist()} of steps {steps.tolist()}"
    first = np.isin(steps, begun)
    for name in _arrays(table):
        yield from _of_array(name, table, whole, places, first)


def _arrays(table):
    wide = any(part.wide for part in table.table.statistic.parts)
    raw = ["tensor", "valid"] if table.has_tensors else []
    return ["rows", "merged", *(["histogram", "histogram_merged"] if wide else []), *raw]


def _of_array(name, table, whole, places, first):
    """The first step whose values are not those of the training never killed.

    The first step of a start has no reference in memory: compared are signals without one.
    """
    got, want = table.read(name), whole.read(name)[places]
    without = [s.reference == "none" for s in table.table.signals]
    for place, step in enumerate(table.read("step")):
        now, then = got[place], want[place]
        if first[place] and name in ("tensor", "valid"):
            continue
        if first[place]:
            axis = 1 if name in ("rows", "histogram") else 0
            now, then = (np.compress(without, each, axis=axis) for each in (now, then))
        if not np.array_equal(now, then, equal_nan=True):
            yield f"{name} of step {step} differs"
            return
