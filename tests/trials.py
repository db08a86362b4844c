"""What the programs that try something at random share: their command line and their report.

Such a program has ``harness(count, seed, ...)``, which returns how often what was met, and the
`Faults` that were found.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

#: Further options of harnesses whose trials are numbered.
NUMBERED: dict[str, dict[str, object]] = {
    "first": {"type": int, "default": 0, "help": "the number of the first trial"},
    "minutes": {"type": float, "help": "begin no further trial after this time"},
}


class Faults(list[str]):
    """Faults, each of which is printed when it is found."""

    def append(self, fault: str) -> None:
        print(fault, flush=True)
        super().append(fault)


def main(
    document: str,
    harness: Callable[..., tuple[Counter[str], list[str]]],
    *,
    count: int,
    **options: dict[str, object],
) -> int:
    """Run a harness as the command line says; 1 if it found a fault.

    Args:
        document: the program's docstring, whose first line is its description.
        harness: see above.
        count: how many trials, unless the command line says.
        options: further keywords of the harness -> what `ArgumentParser.add_argument` takes.
    """
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("--count", type=int, default=count, help="how many trials")
    parser.add_argument("--seed", type=int, default=0)
    for name, how in options.items():
        parser.add_argument(f"--{name}", **how)
    chosen = parser.parse_args()
    begun = time.monotonic()
    met, wrong = harness(**vars(chosen))
    for what, times in met.most_common():
        print(f"{times:8} {what}")
    seconds = time.monotonic() - begun
    print(f"seed {chosen.seed}: {len(wrong)} faults, {seconds:.0f} seconds")
    return 1 if wrong else 0


def forking(program: str) -> BaseContext:
    """What makes processes fast: forked from one that has loaded a program and runs nothing.

    Args:
        program: the path of the program, which is in ``__file__``.
    """
    path = Path(program)
    # The server does not search where its parent does, and says nothing of what it misses.
    searched = [str(path.parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, searched))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([path.stem])
    return context
