"""Kill writers at random moments, and see that nothing committed is ever torn or lost.

    python tests/store/kills.py [--count 300] [--seed 0]

A writer claims or resumes a run, appends blocks of random lengths and commits tails, and
acknowledges over a pipe what is committed. It is killed (SIGKILL) after a random time; then
the run is opened, every row is compared with what was written, and the next writer resumes it
at a random step. Prints what the kills met, and ends with 1 if anything was torn or lost.
"""

import random
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import trials
from test_writing import TABLE, block_of, info_of

from distwatch.records import Origin
from distwatch.store import (
    StoredRun,
    StoreWriter,
    claim,
    next_start,
    origin_of,
    run_name,
    sweep,
)
from distwatch.store.schema import root_attributes

#: Starts in one run before a new one starts.
STARTS = 12


def write(path, first, seed, told):
    """Write from a step on until killed."""
    told.send(("begun", 0))
    info = info_of(signals=12)
    start = 0
    if run_name(path) is None:
        claim(path, root_attributes(info, "2026-01-01T00:00:00+00:00", "1"))
    else:
        sweep(path)
        start = next_start(path)
    told.send(("claimed", 0))
    origin = origin_of(path, replace(info, origin=Origin(start, 0, first)))
    assert not start or origin.step in (0, first), (origin, first)
    writer = StoreWriter(path, replace(info, origin=replace(origin, step=first)))
    rng = np.random.default_rng(seed)
    step = first
    while True:
        steps = int(rng.integers(1, 14))
        writer.append(block_of(info, step, steps))
        step += steps
        told.send(("written", writer.committed))
        if rng.random() < 0.4:
            writer.commit_tail()
            told.send(("tail", writer.committed))


def kill_one(context, path, first, rng):
    """Start a writer, kill it; returns where it was and what it had acknowledged."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=write, args=(path, first, rng.randrange(2**31), there))
    process.start()
    there.close()
    here.recv()  # it is awake
    # Creation takes a few milliseconds, then comes writing.
    process.join(rng.choice([rng.uniform(0, 0.05), rng.uniform(0, 0.6)]))
    died = process.exitcode is not None
    process.kill()
    process.join()
    where, acknowledged = "creation", 0
    try:
        while True:
            where, acknowledged = here.recv()
    except (EOFError, OSError):
        pass
    return "failure" if died else where, acknowledged


def what_is_wrong(path, least):
    """None, or what a reader finds wrong in a run that has at least some steps."""
    try:
        run = StoredRun(path)
        steps = run.steps
        if steps < least:
            return f"lost: {steps} steps, {least} were acknowledged"
        if steps:
            table, want = run.tables[TABLE], block_of(info_of(signals=12), 0, steps)
            for name in ("step", "epoch", "iteration"):
                np.testing.assert_array_equal(table.read(name), getattr(want, name))
            np.testing.assert_array_equal(table.read("rows"), want.rows)
            np.testing.assert_array_equal(table.read("merged"), want.merged)
    except AssertionError as error:
        return f"torn: {error}"
    except Exception as error:
        return f"not opened: {type(error).__name__}: {error}"
    return None


def harness(count, seed):
    """Returns how many kills met a writer where, and what was found wrong."""
    rng = random.Random(seed)
    context = trials.forking(__file__)
    met, wrong = Counter(), trials.Faults()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            path = Path(folder) / f"run-{number // STARTS}.zarr"
            begun = run_name(path) is not None
            steps = StoredRun(path).steps if begun else 0
            first = rng.randint(max(0, steps - 20), steps)
            where, acknowledged = kill_one(context, path, first, rng)
            met[where + (" (resumed)" if begun else "")] += 1
            if where == "failure":
                wrong.append("a writer died by itself")
            if run_name(path) is None:
                continue  # killed before the claim, which acknowledges nothing
            # A start that has committed nothing may or may not hide what it replaces.
            if fault := what_is_wrong(path, first + acknowledged):
                wrong.append(f"kill {number}, {where}: {fault}")
    return met, wrong


if __name__ == "__main__":
    sys.exit(trials.main(__doc__, harness, count=300))
