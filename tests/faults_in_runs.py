"""The faults that ``make faults`` plants in keeping runs and reading them, law by law."""

from fault import Fault

WRITING = "store/test_writing.py"
FINDINGS = "findings/test_findings.py"
KEPT = "findings/test_kept_findings.py"

NOTHING_LOST = [
    Fault(
        "rows wait for a full window, however long it takes",
        "training/session.py",
        "if clock >= self._due:",
        "if False:",
        ("training/test_rows_by_time.py",),
    ),
    Fault(
        "what earlier starts left is never thinned out",
        "store/earlier_starts.py",
        "return [table for table in self._found if table.name == name]",
        "return []",
        ("store/test_thinning.py::test_every_start_has_its_part_of_the_bytes",),
    ),
    Fault(
        "tail refuses a damaged run",
        "cli/following/following.py",
        "stored.reading(read) if self._damaged else read()",
        "read()",
        ("cli/test_tail.py::test_a_run_with_damage_is_followed_without_it",),
    ),
    Fault(
        "an export ends where it meets damage",
        "store/reader.py",
        "            if not (error.in_chunks and self._leave_out_damage()):\n"
        "                raise\n"
        "        else:\n",
        "            raise\n        else:\n",
        ("cli/test_export.py::test_what_is_damaged_is_a_gap",),
    ),
    Fault(
        "one replica is said to be no match for others",
        "findings/replicas.py",
        "if len(run.info.replicas) < 2 or not any(table.steps for table in run.tables):",
        "if not run.tables:",
        ("findings/test_findings.py::test_of_one_replica_nothing_is_said_of_comparing",),
    ),
    Fault(
        "a validation after a kill goes on after the last row that was committed",
        "store/resuming.py",
        "if noted is not None and info.phase not in _TRAINING:",
        "if False:",
        ("store/test_joining.py",),
    ),
    Fault(
        "what a kill took between two starts is not counted",
        "store/joining.py",
        "sum(map(missing_of, parts, self.kept, begins, ends)),",
        "sum(part.lost for part in parts),",
        ("store/test_joining.py::test_steps_between_two_starts_are_missing",),
    ),
    Fault(
        "steps are committed before their chunks are written",
        "store",
        "            self._write(self._chunks(waiting[:whole]))\n"
        "            self.whole += whole\n"
        "            self._note_last(waiting[:whole])\n"
        "            self._commit(self.whole)\n",
        "            self._note_last(waiting[:whole])\n"
        "            self._commit(self.whole + whole)\n"
        "            self._write(self._chunks(waiting[:whole]))\n"
        "            self.whole += whole\n",
        (f"{WRITING}::test_after_every_file_that_is_written_what_is_committed_is_whole",),
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
        "findings/nonfinite.py",
        "    first = places[0]\n    table = broken[first.table]\n    name =",
        "    first = places[-1]\n    table = broken[first.table]\n    name =",
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
        "a loss is not compared with that of a constant output",
        "findings/learning.py",
        "if skill > no_better or not _can_be_judged(course, loss):",
        "if skill > -99 * no_better or not _can_be_judged(course, loss):",
        ("findings/test_course.py",),
    ),
    Fault(
        "a loss that dropout makes larger is judged while it falls",
        "findings/learning.py",
        "and not (noisy and loss.falls)",
        "",
        ("findings/test_course.py",),
    ),
    Fault(
        "what the output cannot reach is no fault",
        "findings/setup.py",
        "beyond = max(low - target.min, target.max - high)",
        "beyond = min(low - target.min, target.max - high)",
        ("findings/test_course.py",),
    ),
    Fault(
        "logits are taken for probabilities that do not fit",
        "findings/setup.py",
        "or card.from_logits or not _no_probability(course)",
        "or not _no_probability(course)",
        ("findings/test_course.py",),
    ),
    Fault(
        "a note names a fault",
        "findings/rules.py",
        "each.faults if each.severity == WARNING else ()",
        "each.faults or (each.kind,)",
        ("findings/test_course.py",),
    ),
    Fault(
        "a fault of several replicas is reported of one",
        "training/traps",
        "if facts.total_replicas < 2:\n        return\n    layers",
        "if facts.total_replicas < 1:\n        return\n    layers",
        ("training/test_traps.py::test_what_a_model_runs_into",),
    ),
]

KEPT_FINDINGS = [
    Fault(
        "findings are used though further rows came",
        "store/digests.py",
        " or not is_of(source, digest):",
        ":",
        (KEPT,),
    ),
    Fault(
        "findings that were changed are used",
        "store/digests.py",
        "if seal != _seal(said):",
        "if False:",
        (KEPT,),
    ),
    Fault(
        "findings that other rules made are used",
        "store/digests.py",
        " or kept.rules != rules",
        "",
        (KEPT,),
    ),
    Fault(
        "findings are used though chunks of their rows are gone",
        "store/digests.py",
        "return kept.found if kept.bytes == source.nbytes else None",
        "return kept.found",
        (KEPT,),
    ),
    Fault(
        "findings of damaged rows are kept",
        "analysis/kept_findings.py",
        " and not store.damaged",
        "",
        (KEPT,),
    ),
    Fault(
        "findings are used though other epochs were known",
        "findings/kept.py",
        "-{zlib.crc32(repr(known).encode()):08x}",
        "",
        (KEPT,),
    ),
    Fault(
        "kept findings that the rows do not say are no failure of verify",
        "cli/verify.py",
        "    if found or false or not chunks:\n",
        "    if found or not chunks:\n",
        (KEPT,),
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

IN_RUNS = [*NOTHING_LOST, *NO_FALSE_WORD, *KEPT_FINDINGS, *READING]
