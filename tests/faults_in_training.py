"""The faults that ``make faults`` plants in watching a training, law by law."""

from fault import Fault

LAWS = "statistics/test_laws.py"
RATIO = "statistics/test_ratio_checksum.py"
KERNELS = "statistics/test_kernels.py"
MISSED = "training/test_nothing_missed.py"
TRUTH = "training/test_truth.py"
SIGNALS = "training/test_every_signal.py"
UNTOUCHED = "training/test_untouched.py"
KILLER = "training/test_never_the_killer.py"
WRITING = "store/test_writing.py"
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
        "what fills up the last block of a small delta is one of its elements",
        "training/device/blocks.py",
        'tf.where(there[:, None], tf.stack([tails, -tails], axis=1), float("inf"))',
        "tf.stack([tails, -tails], axis=1)",
        (KERNELS,),
    ),
    Fault(
        "the sums of small deltas that are irregular stay",
        "training/device/kernels.py",
        "return tf.where(irregular[:, None], self._in_order(groups), plain)",
        "return plain",
        (KERNELS,),
    ),
    Fault(
        "a loss is looked at again at every step",
        "training/device/kernels.py",
        "several = plain.count > 1.0",
        "several = plain.count > 0.0",
        (KERNELS,),
    ),
    Fault(
        "another signal adds as many operations as the first",
        "training/device/blocks.py",
        "return found if len(found) >= _FEWEST else []",
        "return []",
        (KERNELS, "training/test_operations.py"),
    ),
    Fault(
        "the checksum does not depend on the places of the values",
        "statistics/checksum.py",
        "mixed * xp.odd_numbers(bits)",
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
        "a window is asked about again when it may have run over",
        "training/device/ring.py",
        "self._full_at = steps + room",
        "self._full_at = self._drained_after",
        (f"{MISSED}::test_a_short_window_is_drained_when_it_is_full",),
    ),
    Fault(
        "a raw delta takes another's slot",
        "training/device/tensor_slots.py",
        "input_handle=kept, index=slot, item=values",
        "input_handle=kept, index=0, item=values",
        (MISSED, SIGNALS),
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
        "a gradient that nothing uses counts as one that keeps",
        "training/taps/recomputation.py",
        " and op in self._live",
        "",
        (f"{AGAIN}::test_a_gradient_that_nothing_uses_keeps_nothing",),
    ),
    Fault(
        "what is kept in another shape is computed again",
        "training/taps/recomputation.py",
        '"Squeeze", "StopGradient"})',
        '"Squeeze", "StopGradient"}) - {"Reshape"}',
        (f"{AGAIN}::test_what_is_kept_in_another_shape_is_not_computed_again",),
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
    Fault(
        "AutoGraph rewrites the step that is traced for an estimate",
        "training/taps/tracing.py",
        "args=(data,)), autograph=False)",
        "args=(data,)))",
        ("training/test_autograph.py",),
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
        "            except Exception as error:\n                self.fail(error)",
        "            except Exception:\n                raise",
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

REFUSALS = [
    Fault(
        "a step on other replicas than are watched is taken",
        "training/loop.py",
        "if replica_count() != told.total_replicas:",
        "if False:",
        ("training/test_loop.py::test_a_step_under_another_strategy_is_refused",),
    ),
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
        "    if found or false or not chunks:\n",
        "    if false:\n",
        ("cli/test_commands.py",),
    ),
]

IN_TRAINING = [
    *EXACT_MERGE,
    *UNITS,
    *NOTHING_MISSED,
    *TRUE_DELTAS,
    *TRAINING_UNTOUCHED,
    *NEVER_THE_KILLER,
    *REFUSALS,
]
