"""Does the suite that contributors run (``make test``) see what it is there to see?

Each fault is a small change of the package that breaks one law. It is planted in a copy of
the package, and the tests that should catch it are run against that copy: they have to fail.
Against a copy without a fault they have to pass. ``make faults`` plants all of them.

The faults are in `faults_in_training`, `faults_around_training` and `faults_in_runs`. Where the
code was changed and the text of one is no longer found, it is reported as "does not apply",
which is a failure: look for the text's successor, and plant the fault there.
`test_planted_faults` says so at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fault import Fault
from faults_around_training import AROUND_TRAINING
from faults_in_runs import IN_RUNS
from faults_in_training import IN_TRAINING

FAULTS = [*IN_TRAINING, *AROUND_TRAINING, *IN_RUNS]

ROOT = Path(__file__).parents[1]
PACKAGE = "distwatch"

CAUGHT, SURVIVED, NOT_RUN, NOT_APPLIED = "caught", "SURVIVED", "NOT RUN", "DOES NOT APPLY"


class DoesNotApplyError(Exception):
    """A fault's text is not found exactly once."""


def file_of(fault: Fault, package: Path) -> Path:
    """The file of the package that holds a fault's text.

    Raises:
        DoesNotApplyError: its text is not there exactly once.
    """
    room = package / fault.room
    files = sorted(room.rglob("*.py")) if room.is_dir() else [room]
    holding = [file for file in files if file.exists() and fault.old in file.read_text()]
    found = sum(file.read_text().count(fault.old) for file in holding)
    if found != 1:
        raise DoesNotApplyError(f"found {found} times in {PACKAGE}/{fault.room}: {fault.old!r}")
    return holding[0]


def plant(fault: Fault, package: Path) -> None:
    """Put a fault into a copy of the package.

    Raises:
        DoesNotApplyError: its text is not there exactly once.
    """
    file = file_of(fault, package)
    file.write_text(file.read_text().replace(fault.old, fault.new))


def run_tests(tests: Iterable[str], folder: Path) -> tuple[int, str]:
    """Run tests of ``make test`` against the package in a folder: exit code and output."""
    command = [
        # -P: the package in the working directory does not come first.
        *(sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
        *("-m", "not slow and not keras"),
        *(f"tests/{test}" for test in tests),
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def verdict_on(fault: Fault) -> tuple[str, str]:
    """What became of a fault, and the evidence."""
    with tempfile.TemporaryDirectory() as folder:
        package = copied_to(Path(folder))
        try:
            plant(fault, package)
        except DoesNotApplyError as error:
            return NOT_APPLIED, str(error)
        code, output = run_tests(fault.tests, Path(folder))
    said = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    evidence = said[0] if said else output[-2000:]
    return {0: SURVIVED, 1: CAUGHT}.get(code, NOT_RUN), evidence


def copied_to(folder: Path) -> Path:
    """A copy of the package."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=ignored)
    # What the package reads besides itself in a source tree.
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder / PACKAGE


def passes_unplanted(faults: Iterable[Fault]) -> bool:
    """Whether a copy without a fault passes the tests of all faults."""
    tests = dict.fromkeys(test for fault in faults for test in fault.tests)
    with tempfile.TemporaryDirectory() as folder:
        copied_to(Path(folder))
        code, output = run_tests(tests, Path(folder))
    print(f"without a fault: {'passed' if code == 0 else 'FAILED: ' + output[-3000:]}")
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="faults whose words or room have this")
    parser.add_argument("--apply-only", action="store_true", help="run no tests")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    faults = [f for f in FAULTS if chosen.only in f.what or chosen.only in f.room]
    if chosen.apply_only:
        return _apply_only(faults)
    counts = dict.fromkeys((CAUGHT, SURVIVED, NOT_RUN, NOT_APPLIED), 0)
    with ThreadPoolExecutor(max_workers=chosen.jobs) as threads:
        well = threads.submit(passes_unplanted, faults)
        for fault, (verdict, evidence) in zip(
            faults, threads.map(verdict_on, faults), strict=True
        ):
            counts[verdict] += 1
            print(f"{verdict:14} {fault.what}\n{'':14} {evidence}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
    return 0 if well.result() and counts[CAUGHT] == len(faults) else 1


def _apply_only(faults: Iterable[Fault]) -> int:
    """Say which faults no longer apply."""
    wrong = 0
    for fault in faults:
        try:
            file_of(fault, ROOT / PACKAGE)
        except DoesNotApplyError as error:
            wrong += 1
            print(f"{fault.what}: {error}")
    print(f"{wrong} of the faults do not apply")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
