"""How large the report of a long run gets, how long it takes, and how much memory.

    python tests/benchmarks/report_size.py [--steps 100000] [--signals 200] [--replicas 4]

The run is made first (see ``long_runs.py``): most of its chunks are links to a few that were
written. The report is made in a process of its own; its file is kept with ``--output``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from long_runs import LongTable, long_run


def measure(store: Path, output: Path) -> dict[str, float]:
    """Make the report here, and say what it took."""
    from distwatch.report import read_runs, write_page

    start = time.perf_counter()
    runs = read_runs([store])
    read = time.perf_counter()
    size = write_page(runs, output)
    kept = {len(history.bins) for history in runs[0].overview.histories}
    return {
        "reading": read - start,
        "writing": time.perf_counter() - read,
        "bytes": size,
        "bins": max(kept),
        "statistics": [choice.name for choice in runs[0].overview.choices],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--output", type=Path, help="keep the report here")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "long.zarr"
        tables = (LongTable(chosen.signals),)
        long_run(store, steps=chosen.steps, tables=tables, replicas=chosen.replicas)
        output = chosen.output or Path(folder) / "report.html"
        told = [sys.executable, __file__, "--measure", str(store), str(output)]
        made = subprocess.run(told, check=True, capture_output=True, text=True)
    taken = json.loads(made.stdout.splitlines()[-1])
    print(
        f"{chosen.steps} steps x {chosen.signals} signals x {chosen.replicas} replicas: "
        f"{taken['bytes'] / 1e6:.2f} MB, read in {taken['reading']:.0f} s, written in "
        f"{taken['writing']:.1f} s, peak memory {taken['peak'] / 1e6:.0f} MB; "
        f"{taken['bins']} bins of {', '.join(taken['statistics'])}"
    )


if __name__ == "__main__":
    main()
