"""One step, captured and recorded: the same for Keras's own steps and for a loop's."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from distwatch.errors import WatcherError
from distwatch.records import Table
from distwatch.training.device.ring import Recorder
from distwatch.training.gradient_registry import forget_gradients
from distwatch.training.taps.batches import batch_of
from distwatch.training.taps.plan import Taps, TracedPlan, TracedTensors
from distwatch.training.taps.step_capture import StepCapture

Tensor = Any

_UNFINISHED = (
    "the step runs as it was traced while its variables were made, which TensorFlow does only "
    "if they cannot be given their values before; make them before the training."
)


class Steps:
    """Captures steps by ``taps``, and gives their tensors to a recorder.

    Args:
        taps: what picks signals out of a captured step.
        recorder: makes, from the signals of the first step, the recorder that takes the
            tensors of every step; None to record nothing.
        failed: called with an error in the watching of a step; it may raise.
        started: called when a step was done while it was captured: in eager mode.
    """

    def __init__(
        self,
        taps: Taps,
        recorder: Callable[[TracedPlan], Recorder | None],
        failed: Callable[[Exception], None],
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self._taps = taps
        self._make_recorder = recorder
        self._failed = failed
        self._started = started
        #: An error, unless the step is traced once more when variables have their values.
        self._withheld: Exception | None = None
        self._plan: TracedPlan | None = None
        self._recorder: Recorder | None = None
        self._graphs: weakref.WeakSet[Any] = weakref.WeakSet()

    @contextlib.contextmanager
    def capturing(self, data: Any) -> Iterator[StepCapture]:
        """Capture one step on ``data``, on this thread."""
        with self._taps.capturing(data) as capture:
            if capture.graph is not None:
                self._graphs.add(capture.graph)
            yield capture

    def log(self, name: str, value: Any) -> None:
        """Note a number that the step on this thread names, if it is captured."""
        self._taps.log(name, value)

    def forget_graphs(self) -> None:
        """Let go of the graphs of all traced steps, which are not run again."""
        forget_gradients(self._graphs)

    def choose(self, capture: StepCapture) -> TracedTensors | None:
        """The tensors of what is watched, out of a captured step; None to record nothing."""
        try:
            if capture.error is not None:
                raise capture.error
            plan, given = self._taps.choose(capture)
            self._settle(plan)
        except Exception as error:
            # TensorFlow traces a step once more if variables were made in it, and gives
            # them their values in between; without that they would be useless for ever.
            self._withheld = error
            if not self._taps.subject.is_being_made():
                self.check()
            return None
        self._withheld = None
        # Without a strategy the first of two traces never runs.
        if not tf.distribute.has_strategy() and self._taps.subject.is_being_made():
            self._withheld = WatcherError(_UNFINISHED)
            return None
        return given

    def check(self) -> None:
        """Report an error that was withheld, if no further trace has repeated it."""
        error, self._withheld = self._withheld, None
        if error is not None:
            self._failed(error)

    def record(self, given: TracedTensors | None, data: Any = None) -> None:
        """Record these tensors of a step on ``data``, in the graph that the step is in."""
        # A dataset of unknown length ends by a step that gets no data. TensorFlow does what
        # does not depend on them, and that would count a step that was none.
        there = [x for x in tf.nest.flatten(data, expand_composites=True) if tf.is_tensor(x)]
        try:
            if self._recorder is not None and given is not None:
                with tf.control_dependencies(there):
                    self._recorder.record(
                        self._taps.fed(given), self._iteration(), batch_of(data)
                    )
            if tf.executing_eagerly():
                self._started()
        except Exception as error:
            self._failed(error)

    def _settle(self, plan: TracedPlan) -> None:
        if self._plan is None:
            self._recorder = self._make_recorder(plan)
            self._plan = plan
        elif plan.names != self._plan.names or plan.tensor_indices != self._plan.tensor_indices:
            changed = set(plan.names) ^ set(self._plan.names)
            names = ", ".join(sorted(changed)) or "shared tensors"
            if changed and all(name.startswith("log/") for name in changed):
                raise WatcherError(
                    f"watch.log was not given the same names as in the first step ({names} "
                    "differ); only a fixed set of signals can be kept, so give it the same "
                    "ones in each trace of the step, and where it runs eagerly, in each step."
                )
            raise WatcherError(
                "the model called other layers in a later trace of its train step than "
                f"in the first ({names} differ); only a fixed set of signals can be kept."
            )
        else:
            _check_layouts(self._plan.tables, plan.tables)

    def _iteration(self) -> Tensor:
        iterations = self._taps.subject.iterations
        if iterations is None:
            return tf.constant(-1, tf.int64)
        return tf.cast(tf.convert_to_tensor(iterations), tf.int64)


def _check_layouts(first: Sequence[Table], later: Sequence[Table]) -> None:
    """Raise if a raw delta has not the size that it had in the first trace."""
    for one, other in zip(first, later, strict=True):
        if one.tensor != other.tensor:
            raise WatcherError(
                f"the features of {one.names[0]} are of another size than in the first step, "
                "so it has no place in one array; watch it by distwatch.activations, or give "
                "it a fixed size."
            )
