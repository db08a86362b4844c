"""How large exports are, and how fast they are written.

    python tests/benchmarks/exports.py [STEPS]

A made-up run of 4 replicas and 10 signals, written as TensorBoard event files, Parquet and
CSV. Prints a line for each: bytes on disk, values (or rows), and how many a second.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from distwatch.event_files.options import STATISTICS, EventOptions
from distwatch.export import Wanted, write_csv, write_events, write_parquet
from distwatch.store import StoredRun
from distwatch.testing.fake import fake_run

REPLICAS = 4
SIGNALS = [f"activation/encoder/dense_{i}" for i in range(10)]


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        run = fake_run(
            here / "run.zarr", steps=steps, replicas=REPLICAS, signals=SIGNALS, window=256
        )
        stored = StoredRun(run.path)
        # All but ratio on each replica, and with spread merged.
        values = steps * len(SIGNALS) * (REPLICAS * (len(STATISTICS) - 2) + len(STATISTICS) - 1)
        rows = steps * len(SIGNALS) * (REPLICAS + 1)
        print(f"the run itself: {stored.nbytes / 1e6:.2f} MB")

        began = time.perf_counter()
        nbytes = write_events(stored, EventOptions(here / "logs"))
        tell("event files", nbytes, values, "values", time.perf_counter() - began)

        began = time.perf_counter()
        write_parquet(stored, Wanted(), here / "run.parquet")
        seconds = time.perf_counter() - began
        tell("parquet", (here / "run.parquet").stat().st_size, rows, "rows", seconds)

        began = time.perf_counter()
        with (here / "run.csv").open("w", newline="") as file:
            write_csv(stored, Wanted(), file)
        seconds = time.perf_counter() - began
        tell("csv", (here / "run.csv").stat().st_size, rows, "rows", seconds)


def tell(what: str, nbytes: int, number: int, of: str, seconds: float) -> None:
    print(
        f"{what}: {nbytes / 1e6:.2f} MB, {number:,} {of}, {nbytes / number:.1f} bytes each, "
        f"{number / seconds:,.0f} a second"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 2000)
