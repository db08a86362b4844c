"""Does the suite that contributors run (``make test``) see what it is there to see?

Each fault is a small change of the package that breaks one law. It is planted in a copy of
the package, and the tests that should catch it are run against that copy: they have to fail.
Against a copy without a fault they have to pass. ``make faults`` plants all of them.

A fault is a textual replacement, and its text has to be found exactly once in the room that
it names. Where the code was changed and it no longer is, the fault is reported as "does not
apply", which is a failure: look for the text's successor, and plant the fault there.
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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "distwatch"

CAUGHT, SURVIVED, NOT_RUN, NOT_APPLIED = "caught", "SURVIVED", "NOT RUN", "DOES NOT APPLY"


@dataclass(frozen=True)
class Fault:
    """One change that breaks a law.

    Args:
        what: the fault, in words.
        room: the folder or file of the package, below ``distwatch``, that holds ``old``.
        old: text that is found there exactly once.
        new: what takes its place.
        tests: files or ids of tests, below ``tests``, one of which has to fail. All of them
            belong to ``make test``.
    """

    what: str
    room: str
    old: str
    new: str
    tests: tuple[str, ...]


LAWS = "statistics/test_laws.py"
RATIO = "statistics/test_ratio_checksum.py"
KERNELS = "statistics/test_kernels.py"
MISSED = "training/test_nothing_missed.py"
TRUTH = "training/test_truth.py"
SIGNALS = "training/test_every_signal.py"
UNTOUCHED = "training/test_untouched.py"
KILLER = "training/test_never_the_killer.py"
WRITING = "store/test_writing.py"
FINDINGS = "findings/test_findings.py"

EXACT_MERGE = [
    Fault(
        "the squares between the means are subtracted",
        "statistics",
        "a.m2 + b.m2 + between",
        "a.m2 + b.m2 - between",
        (LAWS,),
    ),
    Fault(
        "the merge across replicas forgets the squares between the means",
        "statistics",
        "reductions.sum(state.m2 + state.n * apart * apart)",
        "reductions.sum(state.m2)",
        (LAWS, "training/test_merge_rows.py"),
    ),
    Fault(
        "the largest value of all replicas is their sum",
        "statistics",
        "reductions.max(state.max)",
        "reductions.sum(state.max)",
        (LAWS,),
    ),
    Fault(
        "histograms of two batches are not added up",
        "statistics/base.py",
        "tuple(x + y for x, y in zip(a, b, strict=True))",
        "tuple(x for x, y in zip(a, b, strict=True))",
        ("statistics/test_log_histogram.py",),
    ),
    Fault(
        "a mean far from zero is not centred before it is squared",
        "training/device",
        "_CANCELLATION = 4.0",
        "_CANCELLATION = 1e30",
        (KERNELS,),
    ),
    Fault(
        "the kernel counts what is not zero as zeros",
        "training/device",
        "zeros=count - reduced.nonzeros",
        "zeros=reduced.nonzeros",
        (KERNELS,),
    ),
    Fault(
        "the checksum does not depend on the places of the values",
        "statistics/checksum.py",
        "mixed * (xp.positions(bits) * 2 + 1)",
        "mixed",
        (RATIO,),
    ),
]

UNITS = [
    Fault(
        "std is the variance",
        "statistics",
        "np.sqrt(state.m2 / np.maximum(n, 1.0))",
        "(state.m2 / np.maximum(n, 1.0))",
        ("testing/test_fake.py",),
    ),
    Fault(
        "the update-to-weight ratio is that of squares",
        "statistics",
        "np.sqrt(state.change_l2sq / np.where(some, weight, 1.0))",
        "(state.change_l2sq / np.where(some, weight, 1.0))",
        (RATIO,),
    ),
]

NOTHING_MISSED = [
    Fault(
        "the row at the end of a drain is skipped",
        "training/device",
        "np.arange(self._read + lost, end) %",
        "np.arange(self._read + lost, end - 1) %",
        (f"{MISSED}::test_every_batch_on_every_replica",),
    ),
    Fault(
        "the ring is one row shorter for the writer than for the reader",
        "training/device",
        "ring.written.read_value() % self._capacity",
        "ring.written.read_value() % (self._capacity - 1)",
        (f"{MISSED}::test_a_ring_that_ran_over_says_how_much_it_lost",),
    ),
    Fault(
        "rows that were overwritten are not counted as lost",
        "training/device",
        "lost = max(0, max(written, default=0) - self._read - self._capacity)",
        "lost = 0",
        (f"{MISSED}::test_a_ring_that_ran_over_says_how_much_it_lost",),
    ),
    Fault(
        "steps dropped by a full queue are not declared",
        "store",
        "self._uncounted[block.table] += len(block) + block.lost",
        "self._uncounted[block.table] += 0",
        (WRITING, f"{KILLER}::test_a_slow_disk_drops_whole_blocks_and_says_so"),
    ),
    Fault(
        "what an early end left in the ring is not brought home",
        "training/phase.py",
        "        for table in self._started():\n"
        "            self._drain(table, together=together)",
        "        pass",
        (f"{MISSED}::test_a_training_that_ends_without_an_end_of_epoch",),
    ),
    Fault(
        "a worker's rows are cut at the end of a start that replaces nothing",
        "store",
        "low, high = max(start - before, 0), min(stop - before, kept)",
        "low, high = max(start - before, 0), min(stop - before, kept - 1)",
        ("store/test_joining.py",),
    ),
]

TRUE_DELTAS = [
    Fault(
        "the reference is kept at the step itself, not at the one before",
        "training/device",
        "self._feed.schedule.decide(step + 1, parameters)",
        "self._feed.schedule.decide(step, parameters)",
        (f"{TRUTH}::test_sampled_steps_measure_against_the_step_before",),
    ),
    Fault(
        "every(k) looks one step late",
        "signals",
        "step % parameters[0] == 0",
        "step % parameters[0] == 1 % parameters[0]",
        ("signals/test_schedules.py",),
    ),
    Fault(
        "first(n) looks at n + 1 steps",
        "signals",
        "return step < self.n",
        "return step <= self.n",
        ("signals/test_schedules.py",),
    ),
    Fault(
        "a moving average gives the new batch the weight of the old ones",
        "training/device",
        "decay * before + (1.0 - decay) * now",
        "decay * now + (1.0 - decay) * before",
        (f"{SIGNALS}::test_every_reference_equals_numpy",),
    ),
    Fault(
        "the neighbour is subtracted the wrong way round",
        "training/device",
        "(x[:-1], x[1:])",
        "(x[1:], x[:-1])",
        (f"{SIGNALS}::test_every_reference_equals_numpy",),
    ),
]

TRAINING_UNTOUCHED = [
    Fault(
        "an activation that is listened to is one unit in the last place larger",
        "training/taps",
        "outputs = original(*args, **kwargs)\n",
        "outputs = original(*args, **kwargs) * (1 + 1.2e-7)\n",
        (f"{KILLER}::test_an_error_in_a_drain",),
    ),
    Fault(
        "the patches of the layers stay when the step is traced",
        "training/taps",
        "                    self._undo.close()",
        "                    pass",
        (f"{UNTOUCHED}::test_no_trace_is_left_when_fit_raised",),
    ),
    Fault(
        "the model keeps the watched train function",
        "training/taps",
        "setattr(self._model, self.name, self._kept)",
        "pass",
        (f"{UNTOUCHED}::test_no_trace_is_left_when_fit_raised",),
    ),
]

NEVER_THE_KILLER = [
    Fault(
        "an error of the watching ends the training",
        "training/session.py",
        "                self.fail(error)",
        "                raise",
        (f"{KILLER}::test_an_error_in_a_drain",),
    ),
    Fault(
        "an error before the first step is not raised",
        "training/session.py",
        "(self._refuses and not self._done and not self._under_way)",
        "False",
        (f"{KILLER}::test_before_the_first_step_it_raises",),
    ),
    Fault(
        "strict raises nothing after the first step",
        "training/session.py",
        "self._config.strict or (",
        "(",
        (f"{KILLER}::test_strict_raises_instead",),
    ),
]

NOTHING_LOST = [
    Fault(
        "steps are committed before their chunks are written",
        "store",
        "            self._write(self._chunks(waiting[:whole]))\n"
        "            self.whole += whole\n"
        "            self._commit(self.whole)\n",
        "            self._commit(self.whole + whole)\n"
        "            self._write(self._chunks(waiting[:whole]))\n"
        "            self.whole += whole\n",
        ("store/test_faults.py", WRITING),
    ),
    Fault(
        "a chunk that could not be written is passed over",
        "store",
        "        for error in filter(None, ends):\n            raise error",
        "        del ends",
        ("store/test_encoding.py", "store/test_faults.py"),
    ),
    Fault(
        "a document that was changed is taken for whole",
        "store",
        "return seal is None or not known or seal == _checksum(document)",
        "return True",
        (f"{WRITING}::test_a_damaged_description_is_said", "store/test_damage.py"),
    ),
]

REFUSALS = [
    Fault(
        "a run that is there already is overwritten",
        "store",
        "    if not overwrite:\n",
        "    if False:\n",
        ("testing/test_fake.py::test_a_path_that_is_taken",),
    ),
    Fault(
        "unknown arguments of a Watch are ignored",
        "config",
        'extra="forbid"',
        'extra="ignore"',
        ("config/test_config.py",),
    ),
    Fault(
        "a pattern that matches no signal chooses none, silently",
        "signals",
        "        elif not found:\n",
        "        elif False:\n",
        ("cli/test_tail_command.py::test_refusals", "export/test_exported_files.py"),
    ),
    Fault(
        "damage that was found is no failure of the command",
        "cli/verify.py",
        "    if found or not chunks:\n",
        "    if False:\n",
        ("cli/test_commands.py",),
    ),
]

NO_FALSE_WORD = [
    Fault(
        "the replica beside the odd one is named",
        "findings",
        "replica, two = info.replicas[first.replica],",
        "replica, two = info.replicas[first.replica - 1],",
        (FINDINGS,),
    ),
    Fault(
        "chance is taken for a difference between replicas",
        "findings",
        "7.2, 6.7, 6.3, 6.0)",
        "7.2, 6.7, 6.3, 0.5)",
        (FINDINGS,),
    ),
    Fault(
        "not the first NaN is named but the last",
        "findings",
        "first = places[0]",
        "first = places[-1]",
        (FINDINGS,),
    ),
    Fault(
        "of signals that have NaN at one step the last is named",
        "findings",
        "return place, order, signal.name",
        "return -place, order, signal.name",
        ("findings/test_causes.py",),
    ),
    Fault(
        "a replica is named for what exists once",
        "findings",
        "if kind_of(signal.name) in _ONCE or (",
        "if (",
        ("findings/test_causes.py",),
    ),
    Fault(
        "copies that differ a little are equal",
        "findings",
        "same = ((rows == first)",
        "same = (np.isclose(rows, first)",
        ("findings/test_causes.py",),
    ),
    Fault(
        "data that come again are new evidence",
        "findings",
        "np.minimum(total, over.longest)",
        "total",
        ("findings/test_false_alarms.py",),
    ),
    Fault(
        "an all-clear is given of a run that was not closed",
        "findings",
        "if not run.lost and run.ended == CLOSED:",
        "if not run.lost:",
        ("findings/test_causes.py",),
    ),
    Fault(
        "a fault of several replicas is reported of one",
        "training/traps",
        "if facts.total_replicas < 2:\n        return\n    layers",
        "if facts.total_replicas < 1:\n        return\n    layers",
        ("training/test_traps.py::test_what_a_model_runs_into",),
    ),
]

READING = [
    Fault(
        "a sparkline shows the least striking value of each column",
        "cli/following",
        "np.argmax(strikes[part])",
        "np.argmin(strikes[part])",
        ("cli/test_tail.py",),
    ),
    Fault(
        "a gap in the steps is no gap in a figure",
        "analysis/overview",
        "_GAP = 1.5",
        "_GAP = 1.5e9",
        ("analysis/test_binning.py",),
    ),
    Fault(
        "event files leave out the first of every so many steps",
        "event_files",
        "np.diff(intervals, prepend=self._last)",
        "np.diff(intervals, append=self._last)",
        ("event_files/test_event_files.py",),
    ),
    Fault(
        "names in a report are markup",
        "report",
        "autoescape=True",
        "autoescape=False",
        ("report/test_page.py",),
    ),
    Fault(
        "an epoch's logs hold its last block only",
        "training/epoch_logs.py",
        "if block.table in self._totals:",
        "if False:",
        ("training/test_log_to_keras.py::test_values_are_merged_over_steps_and_replicas",),
    ),
]

FAULTS = [
    *EXACT_MERGE, *UNITS, *NOTHING_MISSED, *TRUE_DELTAS, *TRAINING_UNTOUCHED,
    *NEVER_THE_KILLER, *NOTHING_LOST, *REFUSALS, *NO_FALSE_WORD, *READING,
]  # fmt: skip


class DoesNotApplyError(Exception):
    """A fault's text is not found exactly once."""


def plant(fault: Fault, package: Path) -> None:
    """Put a fault into a copy of the package.

    Raises:
        DoesNotApplyError: its text is not there exactly once.
    """
    room = package / fault.room
    files = sorted(room.rglob("*.py")) if room.is_dir() else [room]
    holding = [file for file in files if file.exists() and fault.old in file.read_text()]
    found = sum(file.read_text().count(fault.old) for file in holding)
    if found != 1:
        raise DoesNotApplyError(f"found {found} times in {PACKAGE}/{fault.room}: {fault.old!r}")
    (file,) = holding
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
    well = passes_unplanted(faults)
    counts = dict.fromkeys((CAUGHT, SURVIVED, NOT_RUN, NOT_APPLIED), 0)
    with ThreadPoolExecutor(max_workers=chosen.jobs) as threads:
        for fault, (verdict, evidence) in zip(
            faults, threads.map(verdict_on, faults), strict=True
        ):
            counts[verdict] += 1
            print(f"{verdict:14} {fault.what}\n{'':14} {evidence}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
    return 0 if well and counts[CAUGHT] == len(faults) else 1


def _apply_only(faults: Iterable[Fault]) -> int:
    """Say which faults no longer apply."""
    wrong = 0
    for fault in faults:
        with tempfile.TemporaryDirectory() as folder:
            try:
                plant(fault, copied_to(Path(folder)))
            except DoesNotApplyError as error:
                wrong += 1
                print(f"{fault.what}: {error}")
    print(f"{wrong} of the faults do not apply")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
