"""The faults that ``make faults`` plants, law by law; see `planted_faults`.

A fault is a textual replacement, and its text has to be found exactly once in the room that
it names.
"""

from __future__ import annotations

from dataclasses import dataclass


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
AGAIN = "training/test_recomputation.py"

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
        "ring.written.read_value() % self.capacity",
        "ring.written.read_value() % (self.capacity - 1)",
        (f"{MISSED}::test_a_ring_that_ran_over_says_how_much_it_lost",),
    ),
    Fault(
        "rows that were overwritten are not counted as lost",
        "training/device",
        "lost = max(0, max(written, default=0) - self._read - self.capacity)",
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
        "NaN of a signal is not counted where its delta has fewer elements",
        "training/device/kernels.py",
        "unseen = tf.logical_and(unknown, tf.logical_not(deltas.whole))",
        "unseen = tf.zeros_like(deltas.whole)",
        ("training/test_special_values.py",),
    ),
    Fault(
        "a loss is multiplied by the replicas, whatever divided it",
        "training/taps/capturing.py",
        "undone = loss * replica_count() ** times if times else tf.identity(loss)",
        "undone = loss * replica_count()",
        ("training/test_loss_scaling.py",),
    ),
    Fault(
        "the reference is kept at the step itself, not at the one before",
        "training/device",
        "self._schedule.decide(step + 1, parameters)",
        "self._schedule.decide(step, parameters)",
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
        "what the gradient does not keep is read directly",
        "training/taps/recomputation.py",
        "if self._graph is None or tensor.graph is not self._graph:",
        "if True:",
        (f"{AGAIN}::test_what_is_named_is_computed_again_and_changes_no_bit",),
    ),
    Fault(
        "what an average needs at every step is computed again under a constant condition",
        "training/device/cadence.py",
        "return step >= 0",
        "return tf.constant(True)",
        (f"{AGAIN}::test_what_is_named_is_computed_again_and_changes_no_bit",),
    ),
    Fault(
        "a gradient that nothing uses counts as one that keeps",
        "training/taps/recomputation.py",
        " and op in self._live",
        "",
        (f"{AGAIN}::test_a_gradient_that_nothing_uses_keeps_nothing",),
    ),
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
        "an error while a step is captured is one of the step",
        "training/taps/capturing.py",
        "capture.error = capture.error or error",
        "raise",
        ("training/test_never_ends.py::test_an_error_while_a_step_is_captured",),
    ),
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
        ("training/test_resume.py::test_after_a_kill_every_step_has_its_number",),
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
