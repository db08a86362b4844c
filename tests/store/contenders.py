"""Two processes contend for one path, again and again.

    python tests/store/contenders.py [--count 60] [--seed 0]

At each try both claim a path at the same moment: a free one; or one that holds a run, which
both overwrite or both resume. Who gets it writes blocks, whose rows say whose they are, and
releases it. Prints how the tries ended, and ends with 1 if a path was ever claimed by both, by
none, or holds a row that its writer did not acknowledge.
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

from distwatch.errors import RunExistsError, RunInUseError
from distwatch.records import Origin
from distwatch.store import StoredRun, StoreWriter, claim_again, claim_new
from distwatch.store.schema import root_attributes

INFO = info_of(signals=2, replicas=1, window=4)
STEPS = 12

#: How a path is claimed, by the situation.
WAYS = ("free", "overwrite", "resume")


def claimed(way, path, name):
    if way == "resume":
        return claim_again(path)
    attributes = root_attributes(INFO, "2026-01-01T00:00:00+00:00", name)
    return claim_new(path, attributes, overwrite=way == "overwrite")


def write(held, path, mark):
    """Write all steps anew, with a number in each row that says who did."""
    info = replace(INFO, origin=Origin(held.start, 0, 0))
    writer = StoreWriter(path, info, claim=held)
    for step in range(STEPS):
        block = block_of(INFO, step, 1)
        rows = np.full_like(block.rows, mark)
        writer.append(replace(block, rows=rows, merged=rows[:, 0]))
    writer.close()


def contend(orders, results, barrier, mark):
    """Claim what is ordered, until nothing more is."""
    for way, path in iter(orders.recv, None):
        barrier.wait(60)
        held = None
        try:
            held = claimed(way, path, f"{mark:x}")
            write(held, path, mark)
            end = "claimed"
        except (RunExistsError, RunInUseError) as error:
            end = type(error).__name__
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
        results.send(end)
        # Not before the other one has tried.
        barrier.wait(60)
        if held is not None:
            held.release()


def what_is_wrong(path, ends):
    """None, or what is wrong after a try that ended so for process 1 and 2."""
    if sorted(end == "claimed" for end in ends) != [False, True]:
        return f"it ended for both like this: {ends}"
    run = StoredRun(path)
    held = run.tables[TABLE].read("rows")[..., 0]
    mark = 1 + ends.index("claimed")
    if held.shape[0] != STEPS or (held != mark).any() or run.ended != "closed":
        return f"{path} holds {held.shape[0]} steps of {np.unique(held)}, expected {mark}"
    return None


def harness(count, seed):
    """Returns how the tries ended, and what was found wrong."""
    rng = random.Random(seed)
    context = trials.forking(__file__)
    barrier = context.Barrier(2)
    pipes = [(context.Pipe(), context.Pipe()) for _ in range(2)]
    processes = [
        context.Process(
            target=contend, args=(orders[1], results[1], barrier, mark), daemon=True
        )
        for mark, (orders, results) in enumerate(pipes, 1)
    ]
    for process in processes:
        process.start()
    ended, wrong = Counter(), trials.Faults()
    with tempfile.TemporaryDirectory() as folder:
        number = 0
        for _ in range(count):
            way = rng.choice(WAYS) if number else "free"
            number += way == "free"
            path = Path(folder) / f"run-{number}.zarr"
            for orders, _ in pipes:
                orders[0].send((way, path))
            ends = [results[0].recv() for _, results in pipes]
            for each in ends:
                ended[f"{way}: {each}"] += 1
            # Until both have released it: each waits for its next order then.
            if fault := what_is_wrong(path, ends):
                wrong.append(f"{way}: {fault}")
        for orders, _ in pipes:
            orders[0].send(None)
        for process in processes:
            process.join()
    return ended, wrong


if __name__ == "__main__":
    sys.exit(trials.main(__doc__, harness, count=60))
