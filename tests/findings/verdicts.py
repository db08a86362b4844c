"""Train what is healthy and what is not, and see what the findings say.

    python tests/findings/verdicts.py [--only WORDS]

Of a healthy training nothing may be warned; of a faulty one the fault has to be told, with
the right signal, replica and step. Prints a line for each, and ends with 1 if any is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    from distwatch.testing import virtual_devices

    virtual_devices(4)
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faulty_trainings import FAULTY, Fault
from healthy_trainings import HEALTHY
from live_verdicts import judged_live, wrong_live

from distwatch.findings import Finding

Warnings = list[Finding]


def healthy_verdict(train: Callable[[Path], object], path: Path) -> str:
    """What is wrongly warned of in a healthy training; empty if nothing is.

    Nor may anything be while it goes on.
    """
    with judged_live() as live:
        run = train(path)
    found = [*warnings_of(run), *(each for _, each in live.early)]
    said = [f"{each.kind}: {each.text}" for each in found]
    return "; ".join([*said, *filter(None, [wrong_live(live, run.findings())])])


def faulty_verdict(fault: Fault, path: Path) -> str:
    """What is wrong with what is said of a fault, live or afterwards; empty if nothing is."""
    with judged_live() as live:
        found = fault.train(path).findings()
    if wrong := wrong_live(live, found):
        return wrong
    told = [each for each in found if fault.is_told_by(each)]
    wrong = [e for e in found if e.severity == "warning" and e.kind not in fault.kinds]
    if len(told) == 1 and not wrong:
        return ""
    said = "; ".join(
        f"{e.kind} {e.signal} step {e.step} replica {e.replica}: {e.text}"
        for e in found
        if e.severity == "warning" or e.kind in fault.kinds
    )
    return f"expected {fault.expected}, found {said or 'nothing'}"


def warnings_of(run: object) -> Warnings:
    """Its warnings."""
    return [each for each in run.findings() if each.severity == "warning"]


def verdicts(words: str) -> Iterator[tuple[str, str]]:
    """The name of each training, and what is wrong."""
    cases = {f"healthy: {name}": (healthy_verdict, case) for name, case in HEALTHY.items()}
    cases |= {f"faulty: {name}": (faulty_verdict, case) for name, case in FAULTY.items()}
    for name, (verdict, case) in cases.items():
        if words in name:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    yield name, verdict(case, Path(folder) / "run.zarr")
                except Exception:
                    yield name, traceback.format_exc()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="trainings whose names have this")
    wrong = 0
    tried = 0
    for name, verdict in verdicts(parser.parse_args().only):
        tried += 1
        wrong += bool(verdict)
        print(f"{'WRONG' if verdict else 'right':6}{name}  {verdict}", flush=True)
    print(f"{tried} trainings, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
