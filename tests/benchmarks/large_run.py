"""What it takes to analyse a long run: seconds, memory, and how much of the store is read.

    python tests/benchmarks/large_run.py [--steps 1000000] [--replicas 4] [--signals 100]
                                         [--store long.zarr] [--rounds 5] [--cases open_run,...]

The run is made first (see ``long_runs.py``): four windows of it are written as a training
writes them, the other chunks are links to those, so that it takes little room. Each case
then runs in a process of its own, in turns; the figures are medians over the rounds. What is
imported is loaded before the clock starts, but for the cases that are whole commands. Read
bytes are those that the process asked the system for, chunk files the different ones that
it opened; all of them are in the system's memory already, so the disk itself is not measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from long_runs import LongTable, chunk_files, long_run

#: The signal that is asked for: one in the middle.
PLACE = 0.5

#: A case begins after what it needs was opened, and is what is measured.
Case = Callable[[], Any]


def open_run(store: Path) -> Case:
    import distwatch as dw

    return lambda: dw.open_run(store)


def refresh(store: Path) -> Case:
    return _run(store).refresh


def one_signal_merged(store: Path) -> Case:
    run = _run(store)
    signal = _middle(run.signals)
    return lambda: run[signal].merged("mean").values


def one_signal_on_each(store: Path) -> Case:
    run = _run(store)
    signal = _middle(run.signals)
    return lambda: run[signal].per_replica("mean").values


def to_xarray(store: Path) -> Case:
    run = _run(store)
    return lambda: run.to_xarray(chunks="auto")


def to_xarray_merged(store: Path) -> Case:
    run = _run(store)
    return lambda: run.to_xarray(chunks="auto", merged=True)


def mean_of(steps: int | None) -> Callable[[Path], Case]:
    def prepare(store: Path) -> Case:
        ds = _run(store).to_xarray(chunks="auto")
        signal = _middle(ds["signal"].values)
        chosen = slice(None) if steps is None else _range(ds.sizes["step"], steps)
        return lambda: float(ds["mean"].sel(signal=signal).isel(step=chosen).mean())

    return prepare


def open_zarr(store: Path) -> Case:
    import xarray as xr

    return lambda: xr.open_zarr(_table(store))


def open_zarr_mean_of(steps: int) -> Callable[[Path], Case]:
    def prepare(store: Path) -> Case:
        import xarray as xr

        ds = xr.open_zarr(_table(store))
        signal = _middle(ds["signal"].values)
        chosen = ds["rows"].sel(signal=signal, field="mean")
        chosen = chosen.isel(step=_range(ds.sizes["step"], steps))
        return lambda: float(chosen.mean())

    return prepare


def nbytes(store: Path) -> Case:
    from distwatch.store import StoredRun

    stored = StoredRun(store)
    return lambda: stored.nbytes


def summary(store: Path) -> Case:
    return _run(store).summary


def kept(ask: Callable[[Any], Any]) -> Callable[[Path], Case]:
    """Opening the run and asking it, once its findings are kept beside the rows."""

    def prepare(store: Path) -> Case:
        _run(store).findings()
        return lambda: ask(_run(store))

    return prepare


def diff(store: Path) -> Case:
    """Of the run and itself, so that all of it is read twice."""
    import distwatch as dw

    return lambda: dw.diff(store, store)


def command(*arguments: str) -> Callable[[Path], Case]:
    """A whole process, with what it imports."""

    def prepare(store: Path) -> Case:
        told = [sys.executable, *(each.replace("STORE", str(store)) for each in arguments)]
        return lambda: subprocess.run(told, check=True, capture_output=True)

    return prepare


CASES: dict[str, Callable[[Path], Case]] = {
    "open_run": open_run,
    "refresh": refresh,
    "to_xarray": to_xarray,
    "to_xarray_merged": to_xarray_merged,
    "mean_1000_steps": mean_of(1_000),
    "mean_100000_steps": mean_of(100_000),
    "mean_all_steps": mean_of(None),
    "signal_merged": one_signal_merged,
    "signal_on_each": one_signal_on_each,
    "nbytes": nbytes,
    "open_zarr": open_zarr,
    "open_zarr_mean_1000_steps": open_zarr_mean_of(1_000),
    "open_zarr_mean_100000_steps": open_zarr_mean_of(100_000),
    "process_open_run": command(
        "-c", "import sys, distwatch as dw; dw.open_run(sys.argv[1])", "STORE"
    ),
    "process_info": command("-c", "from distwatch.cli import main; main()", "info", "STORE"),
    "summary": summary,
    "diff": diff,
    "kept_summary": kept(lambda run: run.summary()),
    "kept_findings": kept(lambda run: run.findings()),
    "kept_notebook": kept(lambda run: run._repr_html_()),
}

#: Reads everything: minutes on a run of a million steps.
SLOW = ("summary", "diff")
#: So does the first of these, before the clock starts.
KEPT = tuple(case for case in CASES if case.startswith("kept"))


def _run(store: Path) -> Any:
    import distwatch as dw

    return dw.open_run(store)


def _table(store: Path) -> Path:
    return store / "worker-0000-start-0000" / "table-00"


def _middle(names: Any) -> str:
    return str(names[int(len(names) * PLACE)])


def _range(steps: int, wanted: int) -> slice:
    """Some steps in the middle, that begin within a chunk."""
    first = max(0, steps // 2 - wanted // 2)
    return slice(first, first + wanted)


def measure(case: str, store: Path) -> dict[str, float]:
    """Run one case here, and say what it took."""
    _warm_up()
    act = CASES[case](store)
    before = _read_bytes()
    with chunk_files() as opened:
        start = time.perf_counter()
        act()
        seconds = time.perf_counter() - start
    who = resource.RUSAGE_CHILDREN if case.startswith("process") else resource.RUSAGE_SELF
    return {
        "seconds": seconds,
        "read": _read_bytes() - before,
        "files": len(opened),
        "peak": resource.getrusage(who).ru_maxrss * 1024,
    }


def _warm_up() -> None:
    """Import what the cases need, and use it once, on a small run."""
    import distwatch as dw

    with tempfile.TemporaryDirectory() as folder:
        small = long_run(Path(folder) / "small.zarr", steps=64, window=32)
        ds = dw.open_run(small.path).to_xarray(chunks="auto")
        float(ds["mean"].mean())


def _read_bytes() -> int:
    """Bytes that this process has read by now, from wherever; 0 where nobody counts."""
    counted = Path("/proc/self/io")
    if not counted.exists():
        return 0
    fields = dict(line.split(": ") for line in counted.read_text().splitlines())
    return int(fields["rchar"])


def in_turns(cases: list[str], store: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The median of each figure of each case."""
    found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for round_ in range(rounds):
        for case in cases:
            if case in SLOW and round_:
                continue
            told = [sys.executable, __file__, "--store", str(store), "--measure", case]
            made = subprocess.run(told, check=True, capture_output=True, text=True)
            found[case].append(json.loads(made.stdout.splitlines()[-1]))
            print(f"round {round_ + 1}: {case}", file=sys.stderr)
    return {
        case: {key: statistics.median(each[key] for each in taken) for key in taken[0]}
        for case, taken in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Examples:\n\n"
        "  python tests/benchmarks/large_run.py\n\n"
        "  python tests/benchmarks/large_run.py --steps 100000 --rounds 3\n\n"
        "  python tests/benchmarks/large_run.py --store long.zarr --cases open_run,summary",
    )
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--window", type=int, default=256, help="steps in a chunk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--store", type=Path, help="make the run here and keep it, or use the one that is here"
    )
    usual = ",".join(case for case in CASES if case not in (*SLOW, *KEPT))
    parser.add_argument("--cases", default=usual, help=f"some of {','.join(CASES)}")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure, chosen.store)))
        return
    cases = chosen.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        store = chosen.store or Path(folder) / "long.zarr"
        if not store.exists():
            long_run(
                store,
                steps=chosen.steps,
                tables=(LongTable(chosen.signals),),
                replicas=chosen.replicas,
                workers=chosen.workers,
                window=chosen.window,
            )
        _print(store, in_turns(cases, store, chosen.rounds))


def _print(store: Path, found: dict[str, dict[str, float]]) -> None:
    from distwatch.store import StoredRun

    stored = StoredRun(store)
    chunks = sum(1 for _ in store.rglob("c.*"))
    print(
        f"{stored.steps} steps x {len(stored.info.replicas)} replicas x "
        f"{len(stored.info.signals)} signals: {stored.nbytes / 1e9:.2f} GB in {chunks} chunk "
        "files along the steps"
    )
    print(
        f"{'case':28} {'seconds':>9} {'read MB':>10} {'of it':>9} {'files':>6} {'peak MB':>8}"
    )
    for case, taken in found.items():
        print(
            f"{case:28} {taken['seconds']:9.3f} {taken['read'] / 1e6:10.2f} "
            f"{taken['read'] / stored.nbytes:9.4%} {taken['files']:6.0f} "
            f"{taken['peak'] / 1e6:8.0f}"
        )


if __name__ == "__main__":
    main()
