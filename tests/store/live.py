"""Two workers write one run while a reader opens it again and again.

    python tests/store/live.py [--opens 1000]

Each time it is opened, every row that a reader is shown is compared with what was written,
and nothing may be fewer than the time before. Ends with 1 if an open failed or showed
something else.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from test_writing import TABLE, block_of, info_of

from distwatch.store import StoredRun, StoreWriter, claim
from distwatch.store.schema import root_attributes

INFO = replace(info_of(signals=9), workers=2)


def write(path, worker, enough):
    """Write blocks of random lengths, and tails, until it is enough."""
    replicas = tuple(2 * worker + i for i in range(2))
    writer = StoreWriter(path, replace(INFO, worker=worker, replicas=replicas))
    rng = np.random.default_rng(worker)
    step = 0
    while not enough.is_set():
        steps = int(rng.integers(1, 20))
        writer.append(block_of(INFO, step, steps))
        step += steps
        if rng.random() < 0.5:
            writer.commit_tail()
        time.sleep(0.005)
    writer.close()


def look(path, before):
    """Open the run; returns each worker's steps."""
    run = StoredRun(path)
    steps = {worker.info.worker: worker.steps for worker in run.workers}
    assert all(steps.get(worker, 0) >= was for worker, was in before.items()), (before, steps)
    if run.tables:
        table = run.tables[TABLE]
        last = slice(max(0, table.steps - 30), table.steps)
        there, rows = table.read("present", last), table.read("rows", last)
        wanted = block_of(INFO, last.start, table.steps - last.start).rows
        for worker in range(len(run.workers)):
            mine = slice(2 * worker, 2 * worker + 2)
            known = there[:, mine]
            np.testing.assert_array_equal(rows[:, mine][known], wanted[known])
        np.testing.assert_array_equal(
            table.read("step", last), np.arange(last.start, table.steps)
        )
    return steps


def poll(opens):
    """Returns how often the run was opened, what went wrong, and the steps at the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["live"])
    enough, wrong, steps = context.Event(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        claim(path, root_attributes(INFO, "2026-01-01T00:00:00+00:00", "1"))
        writers = [context.Process(target=write, args=(path, i, enough)) for i in range(2)]
        for writer in writers:
            writer.start()
        try:
            number = 0
            while number < opens and all(writer.is_alive() for writer in writers):
                try:
                    steps = look(path, steps)
                except Exception as error:
                    wrong.append(f"open {number}: {type(error).__name__}: {error}")
                # Those before both have rows do not count, but must not fail either.
                number += len(steps) == len(writers)
            wrong += ["a writer died"] * (number < opens)
        finally:
            enough.set()
            for writer in writers:
                writer.join()
    return wrong, steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--opens", type=int, default=1000)
    chosen = parser.parse_args()
    wrong, steps = poll(chosen.opens)
    print(
        f"{chosen.opens} opens, {len(wrong)} wrong; the workers wrote {steps} steps meanwhile"
    )
    print("\n".join(wrong[:10]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
