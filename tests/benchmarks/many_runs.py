"""How long it takes to list many runs: ``python tests/benchmarks/many_runs.py [RUNS ...]``.

Made-up runs, each with five tables of eight signals as a default Watch has them, copied as
often as asked for (1,000 and 10,000 unless said), all closed; then as many that were killed,
which have no summary. Of the copies the arrays are left out, which no list opens. Then a tenth
as many that were resumed and closed, which say how many steps they have; and as many that do
not, as after a kill, twice: the first list counts their steps and keeps the numbers. Times are
of a process that has everything imported.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import distwatch as dw
from distwatch.records import Origin, RunInfo, Table
from distwatch.signals import Signal
from distwatch.testing.fake import fake_block, write_fake

TABLES = tuple(
    Table(
        f"table-{i:02d}",
        (Signal("loss", "none"), *(Signal(f"activation/dense_{k}") for k in range(7))),
        "every(1)",
        256,
    )
    for i in range(5)
)


def made(path: Path, starts: int = 1) -> None:
    info = RunInfo(TABLES, (0, 1), "made up, 2 x CPU", {})
    values = lambda step, replica, signal: np.arange(5.0) + step + replica  # noqa: E731
    parts = []
    for start in range(starts):
        said = replace(info, origin=Origin(start, 40 * start, 40 * start))
        steps = range(40 * start, 40 * start + 60)
        parts.append((said, [fake_block(said, table, steps, values) for table in TABLES]))
    write_fake(path, *parts)


def without_summary(path: Path) -> None:
    document = next(path.glob("worker-*")) / "zarr.json"
    said = json.loads(document.read_text())
    said["attributes"]["distwatch"].update(summary=None, crc32=None)
    document.write_text(json.dumps(said))


def arrays(folder: str, names: list[str]) -> list[str]:
    """What is left out: all but the document of a table."""
    is_table = Path(folder).name.startswith("table-")
    return [name for name in names if is_table and name != "zarr.json"]


def listed(runs: Path, number: int, kind: str) -> None:
    start = time.perf_counter()
    assert len(dw.list_runs(runs)) == number
    print(f"{number:,} {kind} runs: {time.perf_counter() - start:.2f} s")


def copied(base: Path, runs: Path, number: int, ignore: Any = None) -> None:
    """Make a folder of so many copies of a run, from those that it has."""
    runs.mkdir(exist_ok=True)
    for i in range(len(list(runs.iterdir())), number):
        copy = runs / f"2026-11-25-1412-digits-{i + 1}.zarr"
        shutil.copytree(base, copy, ignore=ignore)


def main(numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base, runs = Path(folder) / "base.zarr", Path(folder) / "runs"
        made(base)
        dw.list_runs(base)
        for kind in ("closed", "killed"):
            if kind == "killed":
                without_summary(base)
            shutil.rmtree(runs, ignore_errors=True)
            for number in sorted(numbers):
                copied(base, runs, number, arrays)
                listed(runs, number, kind)
        made(Path(folder) / "resumed.zarr", starts=2)
        shutil.rmtree(runs, ignore_errors=True)
        for number in sorted(max(1, number // 10) for number in numbers):
            copied(Path(folder) / "resumed.zarr", runs, number)
            listed(runs, number, "resumed")
            for digest in runs.glob("*/digest-*.json"):
                digest.unlink()
            listed(runs, number, "uncounted resumed")
            listed(runs, number, "resumed (again)")


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [1_000, 10_000])
